"""Figures of CLS as a proxy: its row beside other readings of the attention, and the sinks that fool it."""

from __future__ import annotations

from typing import Literal

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from flowcut_lens.analysis.figures.compare_template import (
    BOTH_WAYS,
    COLOURS,
    NEUTRAL,
    add_band,
    finished,
    how_to_read_all,
    layer_axis,
    line_and_marker,
    mark_unread,
    number,
    style_of,
)
from flowcut_lens.analysis.proxy import ClsProxy, Sinks

Reading = Literal["column_mean", "rollout", "value_weighted"]
READINGS: dict[Reading, str] = {
    "column_mean": "column mean (what all tokens attend to)",
    "rollout": "attention rollout",
    "value_weighted": "attention × norm of the head-averaged value",
}


def proxy_lines(found: ClsProxy, facts: str) -> go.Figure:
    """How like three other readings of the attention the CLS row ranks the patches, by layer.

    How to read: 1: the CLS row ranks the kept patches as the other reading does, 0: unrelated, below: the other way
    round. Lines: head-mean row; bands: lowest to highest single head. A low line says that CLS stands for something
    else than that reading in this layer.
    """
    figure = go.Figure()
    for index, (name, words) in enumerate(READINGS.items()):
        correlation = getattr(found, name)
        if correlation is None:
            continue
        if not np.isnan(correlation.per_head).all():
            low, high = np.nanmin(correlation.per_head, axis=1), np.nanmax(correlation.per_head, axis=1)
            add_band(figure, found.layers, low, high, style_of(index)[0], f"{words}: heads", showlegend=False)
        figure.add_scatter(
            x=found.layers, y=correlation.pooled, name=words, **line_and_marker(index),
            hovertemplate=f"{words}<br>layer %{{x}}: ρ %{{y:.2f}}<extra></extra>",
        )  # fmt: skip
    figure.add_hline(y=0, line={"color": NEUTRAL, "dash": "dot"})
    figure.update_xaxes(**layer_axis(found.layers))
    mark_unread(figure, found.layers, found.last_read_layer)
    figure.update_yaxes(title="Spearman's ρ with the CLS row")
    figure.update_layout(legend={"orientation": "h", "y": -0.22, "yanchor": "top"})
    return finished(figure, "Is CLS a good proxy?", facts, 400)


def proxy_heads(found: ClsProxy, facts: str, reading: Reading = "column_mean") -> go.Figure:
    """How like one other reading each head's CLS row ranks the patches, by layer and head.

    How to read: each cell is one head of one layer: the rank correlation of its CLS row with the other reading over the
    kept patches. Heads differ: a method that averages them mixes these.

    Raises:
        ValueError: the record holds nothing for this reading.
    """
    correlation = getattr(found, reading)
    if correlation is None or np.isnan(correlation.per_head).all():
        raise ValueError(f"This record holds nothing for “{READINGS[reading]}”: record with matrices=True, or anew.")
    values = correlation.per_head.T
    words = [[number(value, 1) for value in row] for row in values]
    figure = go.Figure(
        go.Heatmap(
            z=values, x=found.layers, y=[f"head {head}" for head in range(len(values))], text=words,
            texttemplate="%{text}", textfont={"size": 10}, zmin=-1, zmax=1, colorscale=BOTH_WAYS, xgap=1, ygap=1,
            colorbar={"title": {"text": "ρ"}, "thickness": 12}, hoverongaps=False,
            hovertemplate="layer %{x}, %{y}: ρ %{z:.2f}<extra></extra>",
        )
    )  # fmt: skip
    figure.update_xaxes(**{**layer_axis(found.layers), "dtick": 1, "showgrid": False})
    mark_unread(figure, found.layers, found.last_read_layer, over=True)
    figure.update_yaxes(autorange="reversed", showgrid=False)
    return finished(figure, f"CLS row and {READINGS[reading]}, head by head", facts, 110 + 26 * max(len(values), 3))


def sink_norms(found: Sinks, facts: str) -> go.Figure:
    """Hidden-state norms of the patches by layer, the outliers marked, and how much attention they get.

    How to read: above, band: 5th to 95th percentile of the patches' norms, line: their median; dashed: the threshold
    (median + k robust standard deviations); diamonds: sinks, patches above it (hover for their ids); star: CLS. Below,
    bars: share of the CLS row on the sinks; line: share of what all patches receive. Much attention on few patches of
    outlying norm need not mean that the picture has something there.
    """
    figure = make_subplots(2, 1, shared_xaxes=True, row_heights=[0.68, 0.32], vertical_spacing=0.06)
    low, median, high = np.nanquantile(found.norm, [0.05, 0.5, 0.95], axis=1)
    add_band(figure, found.layers, low, high, COLOURS[0], "patches, 5–95%", row=1, col=1)
    where = {"row": 1, "col": 1}
    figure.add_scatter(x=found.layers, y=median, name="patches, median", **line_and_marker(0, 5), **where)
    figure.add_scatter(
        x=found.layers, y=found.threshold, name=f"threshold, k = {found.outliers:g}", mode="lines",
        line={"color": NEUTRAL, "dash": "dash"}, **where,
    )  # fmt: skip
    at, patch = np.nonzero(found.marked)
    figure.add_scatter(
        x=found.layers[at], y=found.norm[at, patch], mode="markers", name="sinks", customdata=patch,
        marker={"symbol": "diamond", "size": 8, "color": COLOURS[1]},
        hovertemplate="layer %{x}, patch %{customdata}: norm %{y:.1f}<extra></extra>", **where,
    )  # fmt: skip
    figure.add_scatter(
        x=found.layers, y=found.cls_norm, mode="markers", name="CLS", **where,
        marker={"symbol": "star", "size": 9, "color": COLOURS[2]},
    )  # fmt: skip
    figure.add_bar(
        x=found.layers, y=found.cls_share, name="CLS row on sinks", customdata=found.count, row=2, col=1,
        marker={"color": COLOURS[4], "pattern": {"shape": "/"}},
        hovertemplate="layer %{x}: %{y:.1%} of the CLS row on %{customdata} sinks<extra></extra>",
    )  # fmt: skip
    style = line_and_marker(3, 6)
    figure.add_scatter(x=found.layers, y=found.received_share, name="received by sinks", **style, row=2, col=1)
    most = max(0.1, float(found.cls_share.max()), float(found.received_share.max()))
    figure.update_xaxes(**layer_axis(found.layers))
    mark_unread(figure, found.layers, found.last_read_layer)
    figure.layout.annotations = figure.layout.annotations[:1]  # the panel below is too low for the words
    figure.update_xaxes(title="", row=1)
    figure.update_yaxes(title="L2 norm of the state", row=1)
    figure.update_yaxes(title="share of attention", tickformat=".0%", range=[0, 1.1 * most], row=2)
    return finished(figure, "Sinks and registers: patches of outlying norm", facts, 520)


HOW_TO_READ = how_to_read_all((proxy_lines, proxy_heads, sink_norms))
