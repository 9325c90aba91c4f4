"""Figures for the paper, with matplotlib: vector files at column width, from the same arrays as those of the screen."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from flowcut_lens.analysis.figures import run_style
from flowcut_lens.analysis.figures.run_arrays import (
    MaskArrays,
    RelayArrays,
    concentration_arrays,
    mask_arrays,
    relay_arrays,
)
from flowcut_lens.analysis.geometry import canvas_box, grid_box, unseen_boxes
from flowcut_lens.analysis.measures import Concentration
from flowcut_lens.analysis.relay import DIRECTIONS, MASS
from flowcut_lens.analysis.views import NOT_READ

if TYPE_CHECKING:
    from PIL.Image import Image

    from flowcut.records.run import Run

SINGLE_COLUMN, DOUBLE_COLUMN = 3.25, 6.75
"""Inches."""

INK = {"font_size": 7, "small": 5.5}
"""Points."""

LETTERS_PER_INCH = {"font_size": 16, "small": 21}


def mask_figure(run: Run, picture: Image, width: float = SINGLE_COLUMN) -> Figure:
    """As `screen.mask_figure`; width in inches."""
    mask = mask_arrays(run)
    geometry = mask.geometry
    left, top, right, bottom = canvas_box(geometry)
    figure, axes = _blank(width, width * min(1.6, (bottom - top) / (right - left)) + 0.7)
    axes.imshow(picture.convert("RGB"), extent=(0, geometry.original_width, geometry.original_height, 0))
    box = grid_box(geometry)
    axes.imshow(
        np.ma.masked_less(mask.pruned_at, 0), extent=(box[0], box[2], box[3], box[1]), interpolation="nearest",
        alpha=0.82, cmap=ListedColormap(mask.colours), vmin=-0.5, vmax=len(mask.colours) - 0.5,
    )  # fmt: skip
    _number_patches(axes, mask, width)
    for x0, y0, x1, y1 in unseen_boxes(geometry):
        axes.fill([x0, x1, x1, x0], [y0, y0, y1, y1], facecolor="#ffffffb0", edgecolor="#555", hatch="///", linewidth=0)
        label = axes.text((x0 + x1) / 2, (y0 + y1) / 2, "never seen", ha="center", va="center", fontsize=INK["small"])
        label.set(rotation=90 if y1 - y0 > x1 - x0 else 0, bbox={"facecolor": "w", "edgecolor": "none", "pad": 1})
    axes.set(xlim=(left, right), ylim=(bottom, top))
    axes.set_axis_off()
    return _finished(figure, mask.facts, mask.reads)


def concentration_figure(full: Run, pruned: Run, metric: str = "entropy_ratio", width: float = SINGLE_COLUMN) -> Figure:
    """As `screen.concentration_figure`; width in inches."""
    found = concentration_arrays(full, pruned, metric)
    figure = Figure(figsize=(width, 0.95 * width + 0.6), layout="constrained")
    curves, bars = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    each_run = zip(
        found.titles, found.measured, found.curves, run_style.RUN_STYLES[0], ("-", "--"), ("o", "s"), strict=True
    )
    for title, measured, curve, colour, line, marker in each_run:
        curves.fill_between(measured.layers, *curve.band, color=colour, alpha=0.16, linewidth=0)
        curves.plot(
            measured.layers, curve.head_mean, line, color=colour, marker=marker, markersize=2.5, lw=1, label=title
        )
    curves.set_ylabel(f"{found.label}, CLS row", fontsize=INK["font_size"])
    curves.legend(fontsize=INK["font_size"], frameon=False)
    _draw_bars(bars, found.pruned)
    for axes in (curves, bars):
        _mark_unread(axes, found.pruned.last_read_layer, found.pruned.layers[-1], axes is curves)
        axes.tick_params(labelsize=INK["font_size"])
        axes.spines[["top", "right"]].set_visible(False)
    claim = found.claim
    compared = f"Paper: {claim.paper} This run: {claim.run} Verdict: {claim.verdict}."
    return _finished(figure, found.facts, found.reads, compared, claim.rule)


def relay_figure(
    run: Run, picture: Image, mass: float = MASS, max_edges: int = run_style.FIGURE_EDGES, width: float = DOUBLE_COLUMN
) -> Figure:
    """As `screen.relay_figure`; width in inches."""
    found = relay_arrays(run, picture, mass, max_edges)
    figure, axes = _blank(width, 0.6 * width)
    _draw_edges(axes, found)
    axes.plot(*found.spine.T, "-o", color="#222", markersize=3.5, lw=1, zorder=3)
    _draw_tiles(axes, found)
    _mark_unread(axes, found.last_read_layer + 0.5, found.n_layers - 0.5)  # layer l goes from state l to l + 1
    axes.set(xlim=(-0.3, found.n_layers + 0.3), ylim=(-1.1, 1.1), yticks=[], aspect="auto")
    axes.set_xlabel("state between vision layers", fontsize=INK["font_size"])
    axes.tick_params(labelsize=INK["font_size"])
    axes.spines[["top", "right", "left"]].set_visible(False)
    return _finished(figure, found.facts, found.reads, found.shown)


def _blank(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def _number_patches(axes: Axes, mask: MaskArrays, width: float) -> None:
    """On every pruned patch the layer after which it was pruned, in black or white, whichever stands out."""
    size = min(INK["small"], 72 * width / mask.geometry.grid_cols * 0.45)
    for (left, top, right, bottom), layer in zip(mask.geometry.boxes(), mask.pruned_at.ravel(), strict=True):
        if layer >= 0:
            ink = "k" if int(mask.colours[layer][3:5], 16) > 125 else "w"
            place = (left + right) / 2, (top + bottom) / 2
            axes.text(*place, str(layer), fontsize=size, color=ink, ha="center", va="center")


def _draw_bars(axes: Axes, pruned: Concentration) -> None:
    bars = axes.bar(pruned.layers, pruned.removed, color="#AA449966", edgecolor=run_style.PRUNED, linewidth=0.6)
    for bar, count, clamped in zip(bars, pruned.removed, pruned.clamped, strict=True):
        bar.set_hatch("////" if clamped else "")
        if count:
            axes.text(
                bar.get_x() + bar.get_width() / 2, count, f"−{count}", ha="center", va="bottom", fontsize=INK["small"]
            )
    axes.set_ylim(0, 1.35 * max(1, pruned.removed.max()))
    axes.set_xlabel("vision layer", fontsize=INK["font_size"])
    axes.set_ylabel("removed", fontsize=INK["font_size"])


def _mark_unread(axes: Axes, last_read_layer: float, last: float, named: bool = True) -> None:
    """Shade the layers behind the one whose output the language model reads; there may be none."""
    if last <= last_read_layer:
        return
    axes.axvspan(last_read_layer + 0.5, last + 0.5, facecolor="#88888838", linewidth=0)
    if named:
        words, middle = NOT_READ.replace(" by ", " by\n"), (last_read_layer + last + 1) / 2
        text = axes.text(middle, 0.5, words, transform=axes.get_xaxis_transform(), ha="center", va="center", zorder=4)
        text.set(fontsize=INK["small"], rotation=90)


def _draw_edges(axes: Axes, found: RelayArrays) -> None:
    colours = run_style.INFLOW, run_style.OUTFLOW
    for direction, colour, line in zip(DIRECTIONS, colours, ("solid", "dashed"), strict=True):
        widths, segments = 0.2 + 1.8 * found.shares[direction], list(found.segments[direction])
        axes.add_collection(LineCollection(segments, colors=colour, linewidths=widths, linestyles=line, alpha=0.6))


def _draw_tiles(axes: Axes, found: RelayArrays) -> None:
    """Patches as squares: as wide as they are high, in inches."""
    high = run_style.TILE_HEIGHT
    wide = min(0.3, high * 0.6 * (found.n_layers + 0.6) / 2.2 * 0.8)
    for patch, x, y in found.patches:
        extent = (x - wide / 2, x + wide / 2, y - high / 2, y + high / 2)
        axes.imshow(found.tiles[patch], extent=extent, aspect="auto", zorder=2)


def _finished(figure: Figure, facts: str, *lines: str) -> Figure:
    """Facts above, reading help below."""
    letters = {ink: int(figure.get_figwidth() * count) for ink, count in LETTERS_PER_INCH.items()}
    figure.suptitle(run_style.wrapped(facts, length=letters["font_size"]), fontsize=INK["font_size"])
    text = "\n".join(run_style.wrapped(line, length=letters["small"]) for line in lines)
    figure.supxlabel(text, fontsize=INK["small"], x=0.01, ha="left")
    return figure
