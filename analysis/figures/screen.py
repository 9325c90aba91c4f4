"""Figures for the screen and the notebook, with plotly. Each names what it shows and says how to read it."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go

from flowcut_lens.analysis.figures import style
from flowcut_lens.analysis.geometry import canvas_box, geometry_of, grid_box, unseen_boxes
from flowcut_lens.analysis.graph import layout, relay_graph
from flowcut_lens.analysis.measures import METRICS, Concentration, concentration, concentration_claim
from flowcut_lens.analysis.relay import DIRECTIONS, MASS

if TYPE_CHECKING:
    from PIL.Image import Image

    from flowcut.records.run import Run

WIDTH_CLASSES = 4
"""Plotly draws one width per trace: edges are sorted into this many."""


def mask_figure(run: Run, picture: Image) -> go.Figure:
    """The original picture; patches that went are coloured by the layer after which they went, with its number."""
    record = style.recorded(run)
    geometry = geometry_of(record)
    left, top, right, bottom = grid_box(geometry)
    shape = geometry.grid_rows, geometry.grid_cols
    pruned_at = record.pruned_at_layer[0].reshape(shape).astype(float)
    pruned_at[pruned_at < 0] = np.nan
    x, y = _centres(left, right, shape[1]), _centres(top, bottom, shape[0])
    numbers = np.where(np.isnan(pruned_at), "", np.nan_to_num(pruned_at).astype(int).astype(str))
    figure = go.Figure(
        go.Heatmap(
            z=pruned_at, x=x, y=y, text=numbers, texttemplate="%{text}", zmin=0, zmax=record.n_layers - 1, opacity=0.82,
            colorscale=_colour_scale(style.death_colours(record.n_layers)), colorbar={"title": "left after layer"},
            hovertemplate="left after layer %{z}<extra></extra>", hoverongaps=False,
        )
    )  # fmt: skip
    width, height = geometry.original_width, geometry.original_height
    figure.add_layout_image(
        source=_url(picture), xref="x", yref="y", x=0, y=0, sizex=width, sizey=height, sizing="stretch", layer="below"
    )
    for x0, y0, x1, y1 in unseen_boxes(geometry):
        figure.add_shape(type="rect", x0=x0, y0=y0, x1=x1, y1=y1, fillcolor="#888", opacity=0.7, line_width=0)
        figure.add_annotation(x=(x0 + x1) / 2, y=(y0 + y1) / 2, text="never seen", showarrow=False, bgcolor="white")
    canvas = canvas_box(geometry)
    figure.update_xaxes(visible=False, range=[canvas[0], canvas[2]], constrain="domain")
    figure.update_yaxes(visible=False, range=[canvas[3], canvas[1]], scaleanchor="x", constrain="domain")
    return _finished(figure, "Mask", style.facts(run, record), style.HOW_TO_READ["mask_figure"])


def concentration_figure(full: Run, pruned: Run, metric: str = "entropy_ratio") -> go.Figure:
    """One metric of the CLS row through the layers, unpruned and pruned, with the patches that went as bars.

    Raises:
        ValueError: no metric of this name, or a run without a record.
    """
    style.check_metric(metric)
    measured = [concentration(style.recorded(run)) for run in (full, pruned)]
    figure = go.Figure()
    for run, each, colour, dash, symbol in zip((full, pruned), measured, *style.RUN_STYLES, strict=True):
        low, high = each.curve(metric).band
        outline = np.concatenate([high, low[::-1]])
        there_and_back = np.concatenate([each.layers, each.layers[::-1]])
        figure.add_scatter(
            x=there_and_back, y=outline, fill="toself", fillcolor=colour, opacity=0.16, line_width=0, mode="lines",
            name=f"{run.title}: heads", showlegend=False, hoverinfo="skip",
        )  # fmt: skip
        figure.add_scatter(
            x=each.layers, y=each.curve(metric).head_mean, name=run.title, mode="lines+markers",
            line={"color": colour, "dash": dash}, marker={"symbol": symbol, "size": 7},
        )  # fmt: skip
    _add_bars(figure, measured[1])
    label = METRICS[metric].label
    figure.update_layout(
        xaxis={"title": "vision layer", "dtick": 1 if len(measured[0].layers) <= 16 else 2, "anchor": "y2"},
        yaxis={"title": f"{label} of the CLS row", "domain": [0.3, 1]},
        yaxis2={"title": "patches removed", "domain": [0, 0.22], "rangemode": "tozero"},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom"},
    )
    claim = concentration_claim(measured[0])
    reads = f"{METRICS[metric].reads} {style.HOW_TO_READ['concentration']}"
    said = f"<b>Paper:</b> {claim.paper}<br><b>This run:</b> {claim.run} ({claim.verdict})"
    return _finished(figure, label, style.facts(pruned, style.recorded(pruned)), reads, said)


def relay_figure(run: Run, picture: Image, mass: float = MASS, max_edges: int = style.FIGURE_EDGES) -> go.Figure:
    """The relay graph through all layers; patches are drawn with the picture's own pixels."""
    record = style.recorded(run)
    graph = relay_graph(record, 0, mass, max_edges)
    places = layout(graph)
    figure = go.Figure()
    strongest = max((weight for *_, weight in graph.edges(data="weight", default=0.0)), default=1.0)
    for direction, colour, dash in zip(DIRECTIONS, (style.INFLOW, style.OUTFLOW), ("solid", "dash"), strict=True):
        edges = [(a, b, d["weight"] / strongest) for a, b, d in graph.edges(data=True) if d["kind"] == direction]
        for step in range(WIDTH_CLASSES):
            chosen = [(a, b) for a, b, share in edges if min(int(share * WIDTH_CLASSES), WIDTH_CLASSES - 1) == step]
            line = {"color": colour, "dash": dash, "width": 0.5 + 1.2 * step}
            _add_edges(figure, [(places[a], places[b]) for a, b in chosen], line, direction, step == 0)
    spine = np.array([places[node] for node, kind in graph.nodes(data="kind") if kind == "cls"])
    figure.add_scatter(x=spine[:, 0], y=spine[:, 1], mode="lines+markers", line_color="#222", marker_size=9, name="CLS")
    tiles = [_url(tile) for tile in style.patch_tiles(picture, geometry_of(record))]
    box = {"sizex": 0.26, "sizey": style.TILE_HEIGHT, "xanchor": "center", "yanchor": "middle", "sizing": "stretch"}
    figure.update_layout(
        images=[
            {"source": tiles[node[2]], "xref": "x", "yref": "y", "x": places[node][0], "y": places[node][1], **box}
            for node, kind in graph.nodes(data="kind")
            if kind != "cls"
        ]
    )
    figure.update_xaxes(title="state between vision layers", dtick=1, zeroline=False)
    figure.update_yaxes(visible=False, range=[-1.1, 1.1])
    shown = graph.graph["shown_total"]
    told = f"Shown: {shown['inflow']:.0%} of the inflow and {shown['outflow']:.0%} of the outflow of all layers."
    return _finished(figure, "Relay graph", style.facts(run, record), style.HOW_TO_READ["relay"], told, height=620)


def _add_bars(figure: go.Figure, pruned: Concentration) -> None:
    counts = [f"−{count}" if count else "" for count in pruned.removed]
    figure.add_bar(
        x=pruned.layers, y=pruned.removed, yaxis="y2", name="patches removed", text=counts, textposition="outside",
        marker={"color": style.PRUNED, "opacity": 0.5, "pattern": {"shape": np.where(pruned.clamped, "/",
        "").tolist()}},
    )  # fmt: skip


def _add_edges(figure: go.Figure, ends: list[Any], line: dict[str, Any], name: str, in_legend: bool) -> None:
    points = np.array([[a, b, (np.nan, np.nan)] for a, b in ends]).reshape(-1, 2)
    figure.add_scatter(
        x=points[:, 0], y=points[:, 1], mode="lines", line=line, name=name, legendgroup=name, showlegend=in_legend,
        opacity=0.6, hoverinfo="skip",
    )  # fmt: skip


def _centres(low: float, high: float, count: int) -> np.ndarray:
    return low + (np.arange(count) + 0.5) * (high - low) / count


def _colour_scale(colours: list[str]) -> list[tuple[float, str]]:
    return list(zip(np.linspace(0, 1, len(colours)).tolist(), colours, strict=True))


def _url(picture: Image) -> str:
    file = io.BytesIO()
    picture.convert("RGB").save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def _finished(figure: go.Figure, title: str, facts: str, *lines: str, height: int = 480) -> go.Figure:
    """Title, facts and reading help, on white."""
    text = "<br>".join(style.wrapped(line, "<br>") for line in lines)
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
