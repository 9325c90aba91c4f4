"""Figures by depth, unpruned and pruned together: flow-in and flow-out, distance and entropy, density, value norms."""

from __future__ import annotations

from collections.abc import Mapping

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from flowcut_lens.analysis.depth import PARTNERS, Density, FlowShares, Spread, ValueNorm
from flowcut_lens.analysis.figures.compare_template import (
    add_band,
    finished,
    how_to_read_all,
    layer_axis,
    line_and_marker,
    mark_unread,
    see_through,
    style_of,
)

PARTNER_NAMES = {"cls": "CLS", "self": "the patch itself", "patch": "another patch", "none": "nobody"}
NORM_NAMES: dict[ValueNorm, str] = {
    "pooled": "of the head-averaged value",
    "per head": "of each head's own value, mean over heads",
}
MIN_SHARE = 1e-9


def flow_share_lines(runs: Mapping[str, FlowShares], facts: str) -> go.Figure:
    """Where patches mainly read from, and who mainly reads them, by layer (F2); one or two runs.

    How to read: left: share of the kept patches whose strongest source is CLS, the patch itself, or another patch;
    right: the same for who reads them most. Symbols say which; the second run is drawn with open symbols and dashed.
    The strongest partner may hold little of the attention.
    """
    titles = ("Flow-in: main source", "Flow-out: main destination")
    figure = make_subplots(1, 2, subplot_titles=titles, shared_yaxes=True, horizontal_spacing=0.04)
    for run, (run_name, found) in enumerate(runs.items()):
        for column, shares in enumerate((found.source, found.destination), 1):
            for kind_index, kind in enumerate(PARTNERS):
                if kind == "none" and shares[kind].max() < MIN_SHARE:
                    continue
                name = f"{PARTNER_NAMES[kind]}, {run_name}"
                figure.add_scatter(
                    x=found.layers, y=shares[kind], name=name, legendgroup=name, showlegend=column == 1,
                    **_of_run(kind_index, run), row=1, col=column,
                    hovertemplate=f"{name}<br>layer %{{x}}: %{{y:.0%}} of patches<extra></extra>",
                )  # fmt: skip
    _layers(figure, runs)
    figure.update_yaxes(tickformat=".0%", range=[-0.02, 1.02])
    figure.update_yaxes(title="share of the kept patches", col=1)
    return finished(figure, "Flow-in and flow-out", facts, 400, panel_titles=True)


def spread_lines(runs: Mapping[str, Spread], facts: str) -> go.Figure:
    """How far and how evenly layers attend, by depth (F3); one or two runs.

    How to read: left: mean distance from a patch to what it attends to, in patches; right: entropy of the attention of
    all queries over its largest possible value, 1 is even. Lines: mean over heads; bands: lowest to highest head. Once
    patches are pruned, those kept lie further apart or closer by themselves.
    """
    figure = make_subplots(1, 2, subplot_titles=("Attention distance", "Entropy of attention"), horizontal_spacing=0.09)
    for run, (name, found) in enumerate(runs.items()):
        for column, values in enumerate((found.distance, found.entropy_ratio), 1):
            where = {"row": 1, "col": column}
            low, high, colour = values.min(axis=1), values.max(axis=1), style_of(run)[0]
            add_band(figure, found.layers, low, high, colour, f"{name}: heads", showlegend=False, **where)
            figure.add_scatter(
                x=found.layers, y=values.mean(axis=1), name=name, legendgroup=name, showlegend=column == 1,
                **_run_line(run), **where, customdata=found.n_patches,
                hovertemplate=f"{name}, layer %{{x}}: %{{y:.2f}}<br>%{{customdata}} patches kept<extra></extra>",
            )  # fmt: skip
    _layers(figure, runs)
    figure.update_yaxes(title="patches", rangemode="tozero", col=1)
    figure.update_yaxes(title="of the largest possible", col=2)
    return finished(figure, "Attention distance and entropy", facts, 380, panel_titles=True)


def density_lines(runs: Mapping[str, Density], facts: str) -> go.Figure:
    """How much a kept patch carries on average, by layer (F6); one or two runs.

    How to read: left: mean value norm of the kept patches (what the paper calls information density); right: value
    norm times the attention received. The norm is that of the head-averaged value, by which FlowCut weighs, unless the
    title says that of each head: averaging first lets heads cancel each other. A pruned run above the unpruned one
    holds more per patch, as it must where the criterion itself prefers large value norms.
    """
    titles = ("Value norm per patch", "Received attention × value norm per patch")
    figure = make_subplots(1, 2, subplot_titles=titles, horizontal_spacing=0.09)
    for run, (name, found) in enumerate(runs.items()):
        for column, values in enumerate((found.value, found.delivered), 1):
            figure.add_scatter(
                x=found.layers, y=values, name=name, legendgroup=name, showlegend=column == 1, **_run_line(run),
                customdata=found.n_patches, row=1, col=column,
                hovertemplate=f"{name}, layer %{{x}}: %{{y:.3g}}<br>%{{customdata}} patches kept<extra></extra>",
            )  # fmt: skip
    _layers(figure, runs)
    figure.update_yaxes(rangemode="tozero")
    figure.update_yaxes(title="L1 norm", col=1)
    return finished(figure, f"Information density, {_norm(runs)}", facts, 380, panel_titles=True)


def value_boxes(runs: Mapping[str, Density], facts: str) -> go.Figure:
    """Value norms of the kept patches, by layer (F7); one or two runs.

    How to read: box: the middle half of the kept patches, line in it: median, whiskers: 5th to 95th percentile. Of
    two runs the first is filled and stands left, the second is empty and stands right. The norm is that of the
    head-averaged value, by which FlowCut weighs, unless the title says that of each head.
    """
    figure = go.Figure()
    for run, (name, found) in enumerate(runs.items()):
        colour = style_of(run)[0]
        low, first, median, third, high = found.quantiles.T
        figure.add_box(
            x=found.layers, lowerfence=low, q1=first, median=median, q3=third, upperfence=high, name=name,
            offsetgroup=str(run), line={"color": colour, "width": 1.5},
            fillcolor=see_through(colour, 0.0 if run else 0.3),
        )  # fmt: skip
    figure.update_layout(boxmode="group")
    _layers(figure, runs)
    figure.update_yaxes(title="L1 norm of the value", rangemode="tozero")
    return finished(figure, f"Value norms of the kept patches, {_norm(runs)}", facts, 400)


def _norm(runs: Mapping[str, Density]) -> str:
    return NORM_NAMES[next(iter(runs.values())).norm]


def _layers(figure: go.Figure, runs: Mapping[str, FlowShares | Spread | Density]) -> None:
    first = next(iter(runs.values()))
    figure.update_xaxes(**layer_axis(first.layers))
    mark_unread(figure, first.layers, first.last_read_layer)


def _of_run(kind: int, run: int) -> dict[str, object]:
    """Colour and symbol by kind; open and dashed for the second run."""
    colour, symbol, _ = style_of(kind)
    return {
        "mode": "lines+markers",
        "line": {"color": colour, "width": 1.8, "dash": "dash" if run else "solid"},
        "marker": {"color": colour, "size": 7, "symbol": symbol + "-open" if run else symbol},
    }


def _run_line(run: int) -> dict[str, object]:
    style = line_and_marker(run)
    return {**style, "line": {**style["line"], "dash": "dash" if run else "solid"}}


HOW_TO_READ = how_to_read_all((flow_share_lines, spread_lines, density_lines, value_boxes))
