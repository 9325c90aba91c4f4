"""Figures of a run for the screen and the notebook, with plotly; those for print are in `paper`, of the same arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go

from flowcut_lens.analysis.data_url import picture_url
from flowcut_lens.analysis.figures import run_style
from flowcut_lens.analysis.figures.compare_template import mark_unread
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

if TYPE_CHECKING:
    from PIL.Image import Image

    from flowcut.records.run import Run

WIDTH_CLASSES = 4
"""Plotly draws one width per trace: edges are sorted into this many."""


def mask_figure(run: Run, picture: Image) -> go.Figure:
    """The original picture; pruned patches are coloured by the layer after which they were pruned, with its number.

    Raises:
        ValueError: the run was made without a record, or the record knows no picture.
    """
    mask = mask_arrays(run)
    figure = go.Figure(_mask_trace(mask))
    width, height = mask.geometry.original_width, mask.geometry.original_height
    figure.add_layout_image(
        source=_url(picture), xref="x", yref="y", x=0, y=0, sizex=width, sizey=height, sizing="stretch", layer="below"
    )
    for x0, y0, x1, y1 in unseen_boxes(mask.geometry):
        figure.add_shape(type="rect", x0=x0, y0=y0, x1=x1, y1=y1, fillcolor="#888", opacity=0.7, line_width=0)
        figure.add_annotation(x=(x0 + x1) / 2, y=(y0 + y1) / 2, text="never seen", showarrow=False, bgcolor="white")
    canvas = canvas_box(mask.geometry)
    figure.update_xaxes(visible=False, range=[canvas[0], canvas[2]], constrain="domain")
    figure.update_yaxes(visible=False, range=[canvas[3], canvas[1]], scaleanchor="x", constrain="domain")
    return _finished(figure, "Mask", mask.facts, mask.reads)


def _mask_trace(mask: MaskArrays) -> go.Heatmap:
    left, top, right, bottom = grid_box(mask.geometry)
    rows, cols = mask.pruned_at.shape
    return go.Heatmap(
        z=np.where(mask.pruned_at < 0, np.nan, mask.pruned_at), x=_centres(left, right, cols),
        y=_centres(top, bottom, rows), text=np.where(mask.pruned_at < 0, "", mask.pruned_at.astype(str)),
        texttemplate="%{text}", zmin=0, zmax=len(mask.colours) - 1, opacity=0.82,
        colorscale=_colour_scale(mask.colours), colorbar={"title": "pruned after layer"},
        hovertemplate="pruned after layer %{z}<extra></extra>", hoverongaps=False,
    )  # fmt: skip


def concentration_figure(full: Run, pruned: Run, metric: str = "entropy_ratio") -> go.Figure:
    """One metric of the CLS row through the layers, unpruned and pruned, with the patches pruned as bars.

    Raises:
        ValueError: no metric of this name, or a run without a record.
    """
    found = concentration_arrays(full, pruned, metric)
    figure = go.Figure()
    each_run = zip(found.titles, found.measured, found.curves, *run_style.RUN_STYLES, strict=True)
    for title, measured, curve, colour, dash, symbol in each_run:
        low, high = curve.band
        figure.add_scatter(
            x=np.concatenate([measured.layers, measured.layers[::-1]]), y=np.concatenate([high, low[::-1]]),
            fill="toself", fillcolor=colour, opacity=0.16, line_width=0, mode="lines", name=f"{title}: heads",
            showlegend=False, hoverinfo="skip",
        )  # fmt: skip
        figure.add_scatter(
            x=measured.layers, y=curve.head_mean, name=title, mode="lines+markers",
            line={"color": colour, "dash": dash}, marker={"symbol": symbol, "size": 7},
        )  # fmt: skip
    _add_bars(figure, found.pruned)
    mark_unread(figure, found.pruned.layers, found.pruned.last_read_layer)
    figure.update_layout(
        xaxis={"title": "vision layer", "dtick": 1 if len(found.measured[0].layers) <= 16 else 2, "anchor": "y2"},
        yaxis={"title": f"{found.label} of the CLS row", "domain": [0.3, 1]},
        yaxis2={"title": "patches removed", "domain": [0, 0.22], "rangemode": "tozero"},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom"},
    )
    claim = found.claim
    compared = (f"<b>Paper:</b> {claim.paper}", f"<b>This run:</b> {claim.run} <b>{claim.verdict}</b>", claim.rule)
    return _finished(figure, found.label, found.facts, found.reads, *compared)


def relay_figure(run: Run, picture: Image, mass: float = MASS, max_edges: int = run_style.FIGURE_EDGES) -> go.Figure:
    """The relay graph through all layers; patches are drawn with the picture's own pixels.

    Raises:
        ValueError: the run was made without a record, the record knows no picture, or a limit is out of range.
    """
    found = relay_arrays(run, picture, mass, max_edges)
    figure = go.Figure()
    _add_edges(figure, found)
    x, y = found.spine.T
    figure.add_scatter(x=x, y=y, mode="lines+markers", line_color="#222", marker_size=9, name="CLS")
    tiles = [_url(tile) for tile in found.tiles]
    box = {"sizex": 0.26, "sizey": run_style.TILE_HEIGHT, "xanchor": "center", "yanchor": "middle", "sizing": "stretch"}
    images = [{"source": tiles[id_], "xref": "x", "yref": "y", "x": x, "y": y, **box} for id_, x, y in found.patches]
    figure.update_layout(images=images)
    figure.update_xaxes(title="state between vision layers", dtick=1, zeroline=False)
    figure.update_yaxes(visible=False, range=[-1.1, 1.1])
    # States lie between layers: layer l goes from state l to l + 1.
    mark_unread(figure, np.arange(found.n_layers) + 0.5, found.last_read_layer + 0.5)
    return _finished(figure, "Relay graph", found.facts, found.reads, found.shown, height=620)


def _add_bars(figure: go.Figure, pruned: Concentration) -> None:
    counts = [f"−{count}" if count else "" for count in pruned.removed]
    figure.add_bar(
        x=pruned.layers, y=pruned.removed, yaxis="y2", name="patches removed", text=counts, textposition="outside",
        marker={"color": run_style.PRUNED, "opacity": 0.5, "pattern": {"shape": np.where(pruned.clamped, "/",
        "").tolist()}},
    )  # fmt: skip


def _add_edges(figure: go.Figure, found: RelayArrays) -> None:
    """Every edge, a trace for each direction and width."""
    for direction, colour, dash in zip(
        DIRECTIONS, (run_style.INFLOW, run_style.OUTFLOW), ("solid", "dash"), strict=True
    ):
        classes = np.minimum((found.shares[direction] * WIDTH_CLASSES).astype(int), WIDTH_CLASSES - 1)
        for step in range(WIDTH_CLASSES):
            line = {"color": colour, "dash": dash, "width": 0.5 + 1.2 * step}
            _add_segments(figure, found.segments[direction][classes == step], line, direction, step == 0)


def _add_segments(figure: go.Figure, segments: np.ndarray, line: dict[str, Any], name: str, in_legend: bool) -> None:
    """Lines between both ends of each segment [E, 2, 2]."""
    gap = np.full((len(segments), 1, 2), np.nan)
    points = np.concatenate([segments, gap], axis=1).reshape(-1, 2)
    figure.add_scatter(
        x=points[:, 0], y=points[:, 1], mode="lines", line=line, name=name, legendgroup=name, showlegend=in_legend,
        opacity=0.6, hoverinfo="skip",
    )  # fmt: skip


def _centres(low: float, high: float, count: int) -> np.ndarray:
    return low + (np.arange(count) + 0.5) * (high - low) / count


def _colour_scale(colours: list[str]) -> list[tuple[float, str]]:
    return list(zip(np.linspace(0, 1, len(colours)).tolist(), colours, strict=True))


def _url(picture: Image) -> str:
    return picture_url(picture, file_format="PNG")


def _finished(figure: go.Figure, title: str, facts: str, *lines: str, height: int = 480) -> go.Figure:
    """Title, facts and reading help, on white."""
    text = "<br>".join(run_style.wrapped(line, "<br>") for line in lines)
    figure.add_annotation(
        text=text,
        xref="paper",
        yref="paper",
        x=0,
        y=0,
        yshift=-58,
        yanchor="top",
        showarrow=False,
        align="left",
        font_size=11,
    )
    below = 90 + 18 * text.count("<br>")
    margin = {"t": 110, "b": below}
    head = {"text": f"{title}<br><sup>{facts}</sup>"}
    figure.update_layout(title=head, template="plotly_white", margin=margin, height=height + below)
    return figure
