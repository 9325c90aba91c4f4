"""Figures over the picture: one value per patch side by side, and streamlines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go

from flowcut.records.vision import CLS_ID, PADDING_ID
from flowcut_lens.analysis.depth import Streamlines
from flowcut_lens.analysis.figures.compare_template import (
    COLOURS,
    MORE,
    NEUTRAL,
    PLOT_WIDTH,
    Panels,
    centres,
    finished,
    how_to_read_all,
    patch_hover,
    percentile,
    picture_source,
)

if TYPE_CHECKING:
    from PIL.Image import Image

    from flowcut.records.vision import Geometry

MAX_COLUMNS = 4
MAX_LINES = 60
"""Streamlines that can be distinguished."""


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
    spread: bool = True,
) -> go.Figure:
    """One small map per thing: criteria side by side, masks by method, CLS attention by depth, log-prob drops.

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
        spread: whether few maps grow to the figure's width.
    """
    names = ([] if picture is None else ["picture"]) + list(values)
    panels = Panels(geometry, len(names), MAX_COLUMNS, spread=spread)
    figure = go.Figure()
    for panel, name in enumerate(names):
        if name in values:
            shown = np.asarray(values[name], float)
            notes = patch_hover(geometry, [f"{name}: {value:.4g}" for value in shown])
            figure.add_heatmap(
                **panels.grid(percentile(shown) if as_ranks else shown, panel), text=notes, hoverongaps=False,
                hovertemplate="%{text}<extra></extra>", coloraxis=None if own_scale else "coloraxis",
                colorscale=MORE if own_scale else None, showscale=False if own_scale else None,
            )  # fmt: skip
    if not own_scale:
        figure.update_layout(coloraxis={"colorscale": MORE, "colorbar": {"thickness": 12}})
    if marked:
        _add_marks(figure, panels, {names.index(name): patches for name, patches in marked.items()}, marked_as)
    panels.lay(figure, names, None if picture is None else picture_source(picture, geometry), [0])
    figure.update_layout(showlegend=bool(marked), legend={"orientation": "h", "y": -0.02, "yanchor": "top"})
    return finished(figure, title, facts, panels.height + 40)


def _add_marks(figure: go.Figure, panels: Panels, marked: Mapping[int, np.ndarray], marked_as: str) -> None:
    """An open square on every marked patch of some panels."""
    places = [np.stack(panels.centres(panel), axis=-1)[patches] for panel, patches in marked.items()]
    x, y = np.concatenate(places).T
    size = max(4, round(PLOT_WIDTH / panels.columns / panels.geometry.grid_cols) - 2)
    figure.add_scatter(
        x=x, y=y, mode="markers", name=marked_as, hoverinfo="skip",
        marker={"symbol": "square-open", "size": size, "color": COLOURS[1], "line": {"width": 1.5}},
    )  # fmt: skip


def streamlines_map(
    found: Streamlines, geometry: Geometry, facts: str, picture: Image | None = None, limit: int = MAX_LINES
) -> go.Figure:
    """Where chains of main sources (or destinations) run over the picture, CLS beside it.

    How to read: each line follows one patch through the layers, from each token to its strongest source (inflow) or its
    strongest reader (outflow); the triangle is where it begins, dots are where it goes, thicker where more lines run.
    The star beside the picture is CLS: lines that meet there pass through the relay. A step is one strongest partner,
    which may hold little of the attention.

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
    panels = Panels(geometry, 1, titled=False)
    panels.lay(figure, (), None if picture is None else picture_source(picture, geometry), [0], opacity=0.6)
    figure.update_xaxes(range=[relay[0] - 0.06 * width, float(geometry.boxes()[-1, 2])])
    words = "back along main sources" if found.direction == "inflow" else "on along main destinations"
    title = f"Streamlines {words}: {len(chosen)} of {len(found.ids)}, {through} of all pass CLS"
    return finished(figure, title, facts, round(0.75 * panels.height))


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
