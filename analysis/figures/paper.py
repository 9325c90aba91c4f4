"""Figures for the paper, with matplotlib: vector files at column width, from the same arrays as those of the screen."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from flowcut_lens.analysis.figures import style
from flowcut_lens.analysis.geometry import canvas_box, geometry_of, grid_box, unseen_boxes
from flowcut_lens.analysis.graph import Node, layout, relay_graph
from flowcut_lens.analysis.measures import METRICS, Concentration, concentration, concentration_claim
from flowcut_lens.analysis.relay import DIRECTIONS, MASS

if TYPE_CHECKING:
    import networkx as nx
    from PIL.Image import Image

    from flowcut.records.run import Run
    from flowcut.records.vision import Geometry

SINGLE_COLUMN, DOUBLE_COLUMN = 3.25, 6.75
"""Inches."""

INK = {"font_size": 7, "small": 5.5}
"""Points."""

LETTERS_PER_INCH = {"font_size": 16, "small": 21}


def mask_figure(run: Run, picture: Image, width: float = SINGLE_COLUMN) -> Figure:
    """As `screen.mask_figure`; width in inches."""
    record = style.recorded(run)
    geometry = geometry_of(record)
    left, top, right, bottom = canvas_box(geometry)
    figure, axes = _blank(width, width * min(1.6, (bottom - top) / (right - left)) + 0.7)
    axes.imshow(picture.convert("RGB"), extent=(0, geometry.original_width, geometry.original_height, 0))
    pruned_at = record.pruned_at_layer[0].reshape(geometry.grid_rows, geometry.grid_cols)
    box = grid_box(geometry)
    axes.imshow(
        np.ma.masked_less(pruned_at, 0), extent=(box[0], box[2], box[3], box[1]), interpolation="nearest", alpha=0.82,
        cmap=ListedColormap(style.death_colours(record.n_layers)), vmin=-0.5, vmax=record.n_layers - 0.5,
    )  # fmt: skip
    _number_patches(axes, pruned_at.ravel(), geometry, width)
    for x0, y0, x1, y1 in unseen_boxes(geometry):
        axes.fill([x0, x1, x1, x0], [y0, y0, y1, y1], facecolor="#ffffffb0", edgecolor="#555", hatch="///", linewidth=0)
        label = axes.text((x0 + x1) / 2, (y0 + y1) / 2, "never seen", ha="center", va="center", fontsize=INK["small"])
        label.set(rotation=90 if y1 - y0 > x1 - x0 else 0, bbox={"facecolor": "w", "edgecolor": "none", "pad": 1})
    axes.set(xlim=(left, right), ylim=(bottom, top))
    axes.set_axis_off()
    return _finished(figure, style.facts(run, record), style.HOW_TO_READ["mask_figure"])


def concentration_figure(full: Run, pruned: Run, metric: str = "entropy_ratio", width: float = SINGLE_COLUMN) -> Figure:
    """As `screen.concentration_figure`; width in inches."""
    style.check_metric(metric)
    measured = [concentration(style.recorded(run)) for run in (full, pruned)]
    figure = Figure(figsize=(width, 0.95 * width + 0.6), layout="constrained")
    curves, bars = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    for run, each, colour, line, marker in zip(
        (full, pruned), measured, style.RUN_STYLES[0], ("-", "--"), ("o", "s"), strict=True
    ):
        curve = each.curve(metric)
        curves.fill_between(each.layers, *curve.band, color=colour, alpha=0.16, linewidth=0)
        curves.plot(
            each.layers, curve.head_mean, line, color=colour, marker=marker, markersize=2.5, lw=1, label=run.title
        )
    curves.set_ylabel(f"{METRICS[metric].label}, CLS row", fontsize=INK["font_size"])
    curves.legend(fontsize=INK["font_size"], frameon=False)
    _draw_bars(bars, measured[1])
    for axes in (curves, bars):
        axes.tick_params(labelsize=INK["font_size"])
        axes.spines[["top", "right"]].set_visible(False)
    claim = concentration_claim(measured[0])
    reads = f"{METRICS[metric].reads} {style.HOW_TO_READ['concentration']}"
    said = f"Paper: {claim.paper} This run: {claim.run} ({claim.verdict})"
    return _finished(figure, style.facts(pruned, style.recorded(pruned)), reads, said)


def relay_figure(
    run: Run, picture: Image, mass: float = MASS, max_edges: int = style.FIGURE_EDGES, width: float = DOUBLE_COLUMN
) -> Figure:
    """As `screen.relay_figure`; width in inches."""
    record = style.recorded(run)
    graph = relay_graph(record, 0, mass, max_edges)
    places = layout(graph)
    figure, axes = _blank(width, 0.6 * width)
    _draw_edges(axes, graph, places)
    spine = np.array([places[node] for node, kind in graph.nodes(data="kind") if kind == "cls"])
    axes.plot(spine[:, 0], spine[:, 1], "-o", color="#222", markersize=3.5, lw=1, zorder=3)
    _draw_tiles(axes, graph, places, style.patch_tiles(picture, geometry_of(record)), len(record.layers))
    axes.set(xlim=(-0.3, len(record.layers) + 0.3), ylim=(-1.1, 1.1), yticks=[], aspect="auto")
    axes.set_xlabel("state between vision layers", fontsize=INK["font_size"])
    axes.tick_params(labelsize=INK["font_size"])
    axes.spines[["top", "right", "left"]].set_visible(False)
    shown = graph.graph["shown_total"]
    told = f"Shown: {shown['inflow']:.0%} of the inflow and {shown['outflow']:.0%} of the outflow of all layers."
    return _finished(figure, style.facts(run, record), style.HOW_TO_READ["relay"], told)


def _blank(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def _number_patches(axes: Axes, pruned_at: np.ndarray, geometry: Geometry, width: float) -> None:
    boxes = geometry.boxes()
    colours = style.death_colours(int(pruned_at.max()) + 1)
    size = min(INK["small"], 72 * width / geometry.grid_cols * 0.45)
    for patch in np.flatnonzero(pruned_at >= 0):
        left, top, right, bottom = boxes[patch]
        ink = "k" if int(colours[pruned_at[patch]][3:5], 16) > 125 else "w"
        axes.text(
            (left + right) / 2,
            (top + bottom) / 2,
            str(pruned_at[patch]),
            fontsize=size,
            color=ink,
            ha="center",
            va="center",
        )


def _draw_bars(axes: Axes, pruned: Concentration) -> None:
    bars = axes.bar(pruned.layers, pruned.removed, color="#AA449966", edgecolor=style.PRUNED, linewidth=0.6)
    for bar, count, clamped in zip(bars, pruned.removed, pruned.clamped, strict=True):
        bar.set_hatch("////" if clamped else "")
        if count:
            axes.text(
                bar.get_x() + bar.get_width() / 2, count, f"−{count}", ha="center", va="bottom", fontsize=INK["small"]
            )
    axes.set_ylim(0, 1.35 * max(1, pruned.removed.max()))
    axes.set_xlabel("vision layer", fontsize=INK["font_size"])
    axes.set_ylabel("removed", fontsize=INK["font_size"])


def _draw_edges(axes: Axes, graph: nx.DiGraph, places: dict[Node, tuple[float, float]]) -> None:
    strongest = max((weight for *_, weight in graph.edges(data="weight", default=0.0)), default=1.0)
    for direction, colour, line in zip(DIRECTIONS, (style.INFLOW, style.OUTFLOW), ("solid", "dashed"), strict=True):
        edges = [(a, b, data["weight"]) for a, b, data in graph.edges(data=True) if data["kind"] == direction]
        widths = [0.2 + 1.8 * weight / strongest for *_, weight in edges]
        segments = [(places[a], places[b]) for a, b, _ in edges]
        axes.add_collection(LineCollection(segments, colors=colour, linewidths=widths, linestyles=line, alpha=0.6))


def _draw_tiles(
    axes: Axes, graph: nx.DiGraph, places: dict[Node, tuple[float, float]], tiles: list[Image], n_layers: int
) -> None:
    """Patches as squares: as wide as they are high, in inches."""
    high = style.TILE_HEIGHT
    wide = min(0.3, high * 0.6 * (n_layers + 0.6) / 2.2 * 0.8)
    for node, kind in graph.nodes(data="kind"):
        if kind != "cls":
            x, y = places[node]
            extent = (x - wide / 2, x + wide / 2, y - high / 2, y + high / 2)
            axes.imshow(tiles[node[2]], extent=extent, aspect="auto", zorder=2)


def _finished(figure: Figure, facts: str, *lines: str) -> Figure:
    """Facts above, reading help below."""
    letters = {ink: int(figure.get_figwidth() * count) for ink, count in LETTERS_PER_INCH.items()}
    figure.suptitle(style.wrapped(facts, length=letters["font_size"]), fontsize=INK["font_size"])
    text = "\n".join(style.wrapped(line, length=letters["small"]) for line in lines)
    figure.supxlabel(text, fontsize=INK["small"], x=0.01, ha="left")
    return figure
