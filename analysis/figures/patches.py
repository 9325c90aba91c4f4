"""Figures over the picture: one value per patch side by side, and streamlines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from analysis.depth import Streamlines
from analysis.figures.look import (
    COLOURS,
    MORE,
    NEUTRAL,
    aspect,
    centres,
    finished,
    grid_values,
    how_to_read_all,
    lay_picture,
    patch_hover,
    percentile,
    picture_source,
)
from flowcut.record import CLS_ID, PADDING_ID

if TYPE_CHECKING:
    from PIL.Image import Image

    from flowcut.record import Geometry

MAX_COLUMNS = 4
MAX_LINES = 60
"""Streamlines that can be told apart."""


def patch_maps(
    values: Mapping[str, np.ndarray],
    geometry: Geometry,
    facts: str,
    title: str = "Patches",
    picture: Image | None = None,
    marked: Mapping[str, np.ndarray] | None = None,
    marked_as: str = "kept",
    own_scale: bool = True,
    as_ranks: bool = False,
) -> go.Figure:
    """One small map per thing: criteria side by side, masks by method, CLS attention by depth, knock-out falls.

    How to read: one small map of the picture's patches per name; bright is high, dark is low, empty: no value. Where
    each map has a scale of its own, compare places and not brightness between maps. An open square marks a patch.

    Args:
        values: by name, float or bool [N].
        geometry: from patches to the picture.
        facts: of the figure.
        title: of the figure.
        picture: shown first, where given.
        marked: by name, bool [N], patches to be marked.
        marked_as: what the mark means.
        own_scale: whether each map goes from its own lowest to its own highest value.
        as_ranks: colour by percentile among the patches rather than by value, where few patches outshine the rest.
    """
    names = ([] if picture is None else ["picture"]) + list(values)
    columns = min(MAX_COLUMNS, len(names))
    rows = -(-len(names) // columns)
    figure = make_subplots(rows, columns, subplot_titles=names, horizontal_spacing=0.02, vertical_spacing=0.12 / rows)
    source = None if picture is None else picture_source(picture)
    if not own_scale:
        everything = np.concatenate([np.asarray(value, float) for value in values.values()])
        lowest, highest = (0.0, 100.0) if as_ranks else (float(np.nanmin(everything)), float(np.nanmax(everything)))
        ends = {"cmin": lowest, "cmax": highest}
        figure.update_layout(coloraxis={"colorscale": MORE, **ends, "colorbar": {"thickness": 12}})
    for panel, name in enumerate(names):
        where = {"row": panel // columns + 1, "col": panel % columns + 1}
        if source is None or panel > 0:
            _add_map(figure, np.asarray(values[name], float), geometry, own_scale, as_ranks, where)
            if marked is not None and name in marked:
                _add_marks(figure, marked[name], geometry, marked_as, where)
        lay_picture(figure, geometry, source if panel == 0 else None, panel=panel)
    figure.update_annotations(font_size=12)
    figure.update_layout(showlegend=marked is not None, legend={"orientation": "h", "y": -0.02, "yanchor": "top"})
    height = int(rows * (820 / columns * aspect(geometry) + 34)) + 20
    return finished(figure, title, facts, height, panel_titles=True)


def _add_map(
    figure: go.Figure, values: np.ndarray, geometry: Geometry, own_scale: bool, as_ranks: bool, where: dict[str, int]
) -> None:
    notes = [f"{value:.4g}" for value in values]
    scale = {"colorscale": MORE, "showscale": False} if own_scale else {"coloraxis": "coloraxis"}
    shown = grid_values(percentile(values) if as_ranks else values, geometry)
    figure.add_heatmap(
        **shown, **scale, **where, text=patch_hover(geometry, notes), hoverongaps=False,
        hovertemplate="%{text}<extra></extra>",
    )  # fmt: skip


def _add_marks(
    figure: go.Figure, marked: np.ndarray, geometry: Geometry, marked_as: str, where: dict[str, int]
) -> None:
    x, y = centres(geometry)
    first = not any(trace.name == marked_as for trace in figure.data)
    size = max(4, round(820 / MAX_COLUMNS / geometry.grid_cols) - 1)
    figure.add_scatter(
        x=x[marked], y=y[marked], mode="markers", name=marked_as, legendgroup=marked_as, showlegend=first,
        hoverinfo="skip", **where,
        marker={"symbol": "square-open", "size": size, "color": COLOURS[1], "line": {"width": 1.5}},
    )  # fmt: skip


def streamlines_map(
    found: Streamlines, geometry: Geometry, facts: str, picture: Image | None = None, limit: int = MAX_LINES
) -> go.Figure:
    """Where chains of main sources (or destinations) run over the picture, CLS beside it.

    How to read: each line follows one patch through the layers, from each token to its strongest source (inflow) or its
    strongest reader (outflow); the triangle is where it begins, dots are where it goes, thicker where more lines run.
    The star beside the picture is CLS: lines that meet there pass through the relay. A step is one strongest partner,
    which may be a small part of the whole attention.

    Args:
        found: the chains.
        geometry: from patches to the picture.
        facts: of the figure.
        picture: shown below, where given.
        limit: chains drawn at most, evenly chosen.
    """
    chosen = np.unique(np.linspace(0, len(found.ids) - 1, min(limit, len(found.ids))).round().astype(int))
    chains = found.ids[chosen] if found.direction == "outflow" else found.ids[chosen, ::-1]
    x, y = centres(geometry)
    width = float(geometry.boxes()[-1, 2] - geometry.boxes()[0, 0])
    relay = float(geometry.boxes()[0, 0] - 0.09 * width), float(y.mean())
    all_x, all_y = np.append(x, [np.nan, relay[0]]), np.append(y, [np.nan, relay[1]])  # ids -2 and -1 from the end
    assert (PADDING_ID, CLS_ID) == (-2, -1)
    figure = go.Figure()
    _add_segments(figure, chains, all_x, all_y)
    start = chains[:, 0]
    figure.add_scatter(
        x=all_x[start], y=all_y[start], mode="markers", name="begins here", customdata=start,
        marker={"symbol": "triangle-up", "size": 9, "color": COLOURS[4], "line": {"width": 1, "color": "#222222"}},
        hovertemplate="patch %{customdata}<extra></extra>",
    )  # fmt: skip
    through = int(found.through_cls.sum())
    figure.add_scatter(
        x=[relay[0]], y=[relay[1]], mode="markers+text", text=["CLS"], textposition="top center", name="CLS",
        marker={"symbol": "star", "size": 16, "color": COLOURS[1]},
        hovertemplate=f"{through} of {len(found.ids)} chains pass CLS<extra></extra>",
    )  # fmt: skip
    lay_picture(figure, geometry, None if picture is None else picture_source(picture), 0.6)
    figure.update_xaxes(range=[relay[0] - 0.06 * width, float(geometry.boxes()[-1, 2])])
    words = "back along main sources" if found.direction == "inflow" else "on along main destinations"
    title = f"Streamlines {words}: {len(chosen)} of {len(found.ids)}, {through} of all pass CLS"
    return finished(figure, title, facts, int(620 * aspect(geometry)))


def _add_segments(figure: go.Figure, chains: np.ndarray, x: np.ndarray, y: np.ndarray) -> None:
    """Every step between different tokens, once, in three widths by how many chains take it."""
    steps = np.stack([chains[:, :-1].ravel(), chains[:, 1:].ravel()], axis=-1)
    steps = steps[(steps[:, 0] != steps[:, 1]) & (steps != PADDING_ID).all(axis=1)]
    if not len(steps):
        return
    pairs, counts = np.unique(steps, axis=0, return_counts=True)
    for low, high, width, words in ((1, 1, 0.8, "1 chain"), (2, 4, 1.8, "2 to 4"), (5, np.inf, 3.2, "5 or more")):
        taken = pairs[(counts >= low) & (counts <= high)]
        if len(taken):
            gaps = np.full(len(taken), np.nan)
            figure.add_scatter(
                x=np.stack([x[taken[:, 0]], x[taken[:, 1]], gaps], axis=-1).ravel(),
                y=np.stack([y[taken[:, 0]], y[taken[:, 1]], gaps], axis=-1).ravel(),
                mode="lines", line={"color": COLOURS[0], "width": width}, opacity=0.8, name=words, hoverinfo="skip",
            )  # fmt: skip
    ends = np.unique(pairs[:, 1])
    figure.add_scatter(
        x=x[ends], y=y[ends], mode="markers", marker={"size": 4, "color": NEUTRAL}, name="passes", customdata=ends,
        hovertemplate="patch %{customdata}<extra></extra>",
    )  # fmt: skip


HOW_TO_READ = how_to_read_all((patch_maps, streamlines_map))
