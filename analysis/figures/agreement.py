"""Figures of agreement: matrices, the contradiction map over the picture, criteria against each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
import plotly.graph_objects as go

from flowcut_lens.analysis.agreement import Contradiction
from flowcut_lens.analysis.figures.compare_template import (
    BOTH_WAYS,
    COLOURS,
    MORE,
    NEUTRAL,
    Panels,
    finished,
    how_to_read_all,
    number,
    patch_hover,
    percentile,
    picture_source,
)
from flowcut_lens.analysis.views import NOT_READ

if TYPE_CHECKING:
    from PIL.Image import Image

    from flowcut.records.vision import Geometry

MEASURES = {
    "iou": ("Overlap of the kept patches (IoU)", "IoU"),
    "spearman": ("Agreement of the rankings (Spearman's ρ)", "ρ"),
    "kendall": ("Agreement of the rankings (Kendall's τ)", "τ"),
}
MAX_COLUMNS = 6
STANDINGS = (
    ("kept by both", "circle", COLOURS[0]),
    ("kept by this layer, cut by the running score", "cross", COLOURS[4]),
    ("cut by this layer, kept by the running score", "x", COLOURS[1]),
)
"""Where a layer and the accumulated score stand to each other: words, symbol, colour."""


def heat_matrix(
    values: np.ndarray,
    names: Sequence[str],
    facts: str,
    measure: Literal["iou", "spearman", "kendall"] = "iou",
    axis: str = "",
    unread: int = 0,
) -> go.Figure:
    """A matrix of agreement between criteria, or between layers.

    How to read: each cell compares the row with the column. IoU: 1 the same patches, 0 none in common. ρ and τ: 1 the
    same order, 0 unrelated, −1 opposite. An empty cell: one of the two ranks nothing. Layers that the language model
    does not read are set apart by lines.

    Args:
        values: float [M, M].
        names: of the M rows.
        facts: of the figure.
        measure: what the values are.
        axis: what the rows are, where their names do not say it.
        unread: how many of the rows, the last ones, are layers that the language model does not read.
    """
    title, short = MEASURES[measure]
    words = [[_short(value) for value in row] for row in values]
    labels = [str(name) for name in names]
    from_zero = measure == "iou"
    figure = go.Figure(
        go.Heatmap(
            z=values, x=labels, y=labels, text=words, texttemplate="%{text}", xgap=1, ygap=1,
            zmin=0 if from_zero else -1, zmax=1, colorscale=MORE if from_zero else BOTH_WAYS,
            colorbar={"title": {"text": short}, "thickness": 12}, textfont={"size": 12 if len(labels) <= 12 else 9},
            hovertemplate=f"%{{y}} and %{{x}}: {short} %{{z:.2f}}<extra></extra>", hoverongaps=False,
        )
    )  # fmt: skip
    angle = -40 if max(map(len, labels)) > 3 else 0
    figure.update_xaxes(type="category", title={"text": axis}, tickangle=angle, showgrid=False)
    figure.update_yaxes(type="category", title={"text": axis}, autorange="reversed", showgrid=False)
    if unread:
        border, line = len(labels) - unread - 0.5, {"color": COLOURS[1], "width": 2.5}
        figure.add_vline(x=border, line=line)
        figure.add_hline(y=border, line=line)
        figure.update_xaxes(title={"text": f"{axis}; right of the line: {NOT_READ}"})
    return finished(figure, title, facts, 110 + 30 * max(len(labels), 3))


def _short(value: float) -> str:
    """Two decimals without the nought before the point."""
    return number(value, 0) if abs(value) >= 0.995 else number(value).replace("0.", ".", 1)


def contradiction_map(found: Contradiction, geometry: Geometry, facts: str, picture: Image | None = None) -> go.Figure:
    """How many layers would keep each patch alone, and what the accumulated score does with it.

    How to read: left the picture, right its patches. Bright: every layer alone would keep the patch, dark: none would;
    in between the layers contradict each other. Open square: kept by the accumulated score. Cross: kept or cut by it
    against most layers.
    """
    panels = Panels(geometry, 1 if picture is None else 2, 2, titled=False)
    last = panels.count - 1
    votes, against = found.votes, found.overruled > 0.5
    notes = [
        f"{vote * len(found.layers):.0f} of {len(found.layers)} layers would keep it<br>"
        f"running score: {'kept' if kept else 'cut'}{', against most layers' if overruled else ''}"
        for vote, kept, overruled in zip(votes, found.running_keeps, against, strict=True)
    ]
    figure = go.Figure(
        go.Heatmap(
            **panels.grid(votes, last), zmin=0, zmax=1, colorscale=MORE, text=patch_hover(geometry, notes),
            hovertemplate="%{text}<extra></extra>",
            colorbar={"title": {"text": "layers that<br>would keep it"}, "tickformat": ".0%", "thickness": 12},
        )
    )  # fmt: skip
    x, y = panels.centres(last)
    marks = (
        (found.running_keeps, "square-open", "#FFFFFF", f"kept by the running score ({found.tokens} tokens)", 11),
        (against, "x-thin-open", COLOURS[1], "against most layers", 7),
    )
    for where, symbol, colour, name, size in marks:
        figure.add_scatter(
            x=x[where], y=y[where], mode="markers", name=name, hoverinfo="skip",
            marker={"symbol": symbol, "size": size, "color": colour, "line": {"width": 1.6, "color": colour}},
        )  # fmt: skip
    panels.lay(figure, (), None if picture is None else picture_source(picture, geometry), [0])
    figure.update_layout(legend={"orientation": "h", "y": -0.02, "yanchor": "top", "bgcolor": "rgba(128,128,128,0.55)"})
    return finished(figure, "Where single layers contradict each other", facts, panels.height + 60)


def layer_keeps(found: Contradiction, geometry: Geometry, facts: str, picture: Image | None = None) -> go.Figure:
    """Every scored layer's own choice over the picture, beside what the accumulated score does.

    How to read: one small picture per layer. Dot: the layer alone and the running score both keep the patch; plus: the
    layer alone would keep it, the running score cuts it; cross: the layer alone would cut it, the running score keeps
    it. The more plusses and crosses, the more this layer contradicts what all of them decide together.
    """
    panels = Panels(geometry, len(found.layers), MAX_COLUMNS)
    shared = (found.keeps & found.running_keeps).sum(axis=1) / found.running_keeps.sum()
    titles = [f"layer {layer} · {share:.0%} shared" for layer, share in zip(found.layers, shared, strict=True)]
    standings = (
        found.keeps & found.running_keeps, found.keeps & ~found.running_keeps, ~found.keeps & found.running_keeps,
    )  # fmt: skip
    x, y = np.stack([panels.centres(panel) for panel in range(panels.count)], axis=1)
    figure = go.Figure()
    for where, (name, symbol, colour) in zip(standings, STANDINGS, strict=True):
        at, patch = np.nonzero(where)
        figure.add_scatter(
            x=x[where], y=y[where], mode="markers", name=name, customdata=np.stack([found.layers[at], patch], axis=-1),
            marker={"symbol": symbol, "size": 5, "color": colour},
            hovertemplate=f"layer %{{customdata[0]}}, patch %{{customdata[1]}}<br>{name}<extra></extra>",
        )  # fmt: skip
    source = None if picture is None else picture_source(picture, geometry)
    panels.lay(figure, titles, source, range(panels.count), opacity=0.4)
    figure.update_layout(legend={"orientation": "h", "y": -0.02, "yanchor": "top"})
    title = f"What each layer alone would keep ({found.tokens} tokens)"
    return finished(figure, title, facts, panels.height + 60)


def criteria_scatter(
    x: np.ndarray,
    y: np.ndarray,
    names: tuple[str, str],
    facts: str,
    kept: tuple[np.ndarray, np.ndarray] | None = None,
    marked: np.ndarray | None = None,
    marked_as: str = "sink",
    selected: int | None = None,
    as_ranks: bool = True,
) -> go.Figure:
    """Two criteria's rankings of every patch against each other.

    How to read: each mark is a patch (hover for its id and values); further right, or higher up, one or the other
    criterion ranks it higher. On the rising diagonal both rank alike, far from it they differ. Symbols: which of the
    two keep the patch; a ring marks sinks.

    Args:
        x: float [N]; NaN: not ranked.
        y: float [N].
        names: of both.
        facts: of the figure.
        kept: bool [N] of each, whether the criterion keeps the patch.
        marked: bool [N], patches to be ringed.
        marked_as: what the ring means.
        selected: a patch to point at.
        as_ranks: percentile ranks on both axes rather than the values, which are often very uneven.
    """
    figure = go.Figure()
    ids = np.arange(len(x))
    values = np.stack([ids, x, y], axis=-1)
    across, up = (percentile(axis) if as_ranks else axis for axis in (x, y))
    hover = f"patch %{{customdata[0]}}<br>{names[0]}: %{{customdata[1]:.3g}}<br>{names[1]}: %{{customdata[2]:.3g}}"
    for where, name, symbol, colour in _by_keeper(len(x), names, kept):
        figure.add_scatter(
            x=across[where], y=up[where], mode="markers", name=name, customdata=values[where],
            marker={"symbol": symbol, "size": 7, "color": colour, "opacity": 0.85},
            hovertemplate=hover + "<extra></extra>",
        )  # fmt: skip
    rings = ((marked, "circle-open", 15, marked_as), (ids == selected, "square-open", 19, f"patch {selected}"))
    for ring, symbol, size, name in rings:
        if ring is not None and ring.any():
            figure.add_scatter(
                x=across[ring], y=up[ring], mode="markers", name=name, hoverinfo="skip",
                marker={"symbol": symbol, "size": size, "color": COLOURS[1], "line": {"width": 1.8}},
            )  # fmt: skip
    unit = ", percentile among patches" if as_ranks else ""
    figure.update_xaxes(title=names[0] + unit, exponentformat="power")
    figure.update_yaxes(title=names[1] + unit, exponentformat="power")
    return finished(figure, f"{names[1]} against {names[0]}", facts, 440)


def _by_keeper(
    count: int, names: tuple[str, str], kept: tuple[np.ndarray, np.ndarray] | None
) -> list[tuple[np.ndarray, str, str, str]]:
    """Which patches, in words, symbol and colour, by who keeps them; those that nobody keeps are drawn first."""
    if kept is None:
        return [(np.ones(count, bool), "patches", "circle", COLOURS[0])]
    one, other = kept
    return [
        (~one & ~other, "kept by neither", "circle-open", NEUTRAL),
        (one & other, "kept by both", "circle", COLOURS[0]),
        (one & ~other, f"by {names[0]} alone", "triangle-right", COLOURS[4]),
        (~one & other, f"by {names[1]} alone", "triangle-up", COLOURS[2]),
    ]


HOW_TO_READ = how_to_read_all((heat_matrix, contradiction_map, layer_keeps, criteria_scatter))
