"""Figures of ground truth: how much of the object that is asked about is kept, pointed at and passed on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go

from flowcut_lens.analysis.figures.compare_template import (
    COLOURS,
    MORE,
    NEUTRAL,
    finished,
    how_to_read_all,
    layer_axis,
    line_and_marker,
    mark_unread,
)
from flowcut_lens.analysis.relay import Direction
from flowcut_lens.analysis.truth import LayerTruth, ObjectFlow
from flowcut_lens.analysis.views import is_read

RANKED_BY = {
    "cls": "CLS attention",
    "similarity": "similarity",
    "value_norm": "value norm",
    "score": "score S of the layer",
    "running": "running score",
}
"""What layers rank by, in words, in the order in which the factors make up the score."""
TAKEN: dict[Direction, str] = {"inflow": "gathers", "outflow": "hands back"}
PASSED: dict[Direction, str] = {"inflow": "gathers from", "outflow": "hands back to"}


def truth_bars(
    names: Sequence[str],
    recall: np.ndarray,
    facts: str,
    pointing: np.ndarray | None = None,
    chance: float | None = None,
) -> go.Figure:
    """How much of the object each criterion keeps, and whether its highest-ranked patch lies on it.

    How to read: bar: the share of the object that the question is about which lies in kept patches, 100%: all of it;
    dotted: what a random choice keeps on average. Beside the bar: ● the criterion's highest-ranked patch lies on the
    object, ○ it does not, a number where several tie for highest, – it ranks nothing.

    Args:
        names: of the M criteria.
        recall: float [M], 0 to 1; NaN: the question is about no object.
        facts: of the figure.
        pointing: float [M], 0 to 1, of the pointing game.
        chance: T/N.
    """  # fmt: skip
    order = np.argsort(np.nan_to_num(recall, nan=-1.0), kind="stable")
    labels = [f"{recall[index]:.0%}" if np.isfinite(recall[index]) else "no object" for index in order]
    if pointing is not None:
        labels = [f"{label}  {_pointed(pointing[index])}" for label, index in zip(labels, order, strict=True)]
    figure = go.Figure(
        go.Bar(
            x=np.nan_to_num(recall[order]), y=[names[index] for index in order], orientation="h", text=labels,
            textposition="outside", cliponaxis=False, showlegend=False, marker={"color": COLOURS[0]}, width=0.62,
            hovertemplate="%{y}: %{text}<extra></extra>",
        )
    )  # fmt: skip
    if chance is not None:
        line = {"color": NEUTRAL, "dash": "dot", "width": 2}
        figure.add_vline(x=chance, line=line, layer="below", name=f"by chance: {chance:.0%}", showlegend=True)
    figure.update_xaxes(title="share of the object that is kept", range=[0, 1.12], tickformat=".0%", dtick=0.2)
    return finished(figure, "Is the object asked about kept?", facts, 90 + 30 * max(len(names), 2))


def _pointed(value: float) -> str:
    if not np.isfinite(value):
        return "–"
    return {0.0: "○", 1.0: "●"}.get(float(value), f"{value:.0%}")


def object_flow_lines(flows: Mapping[str, ObjectFlow], facts: str, direction: Direction = "inflow") -> go.Figure:
    """The object's share of what passes through CLS, by layer and criterion.

    How to read: line: share of what CLS gathers (or hands back) that is of the object's patches, mean over heads;
    dotted, in the same colour: their share of the kept patches, what even attention would give. A line above its
    dotted one says that the flow prefers the object; a share grows, too, when other patches are removed.
    """
    figure = go.Figure()
    for index, (name, flow) in enumerate(flows.items()):
        shares = flow.inflow_mean if direction == "inflow" else flow.outflow_mean
        style = line_and_marker(index)
        figure.add_scatter(
            x=flow.layers, y=shares, name=name, legendgroup=name, **style,
            hovertemplate=f"{name}, layer %{{x}}: %{{y:.1%}}<extra></extra>",
        )  # fmt: skip
        figure.add_scatter(
            x=flow.layers, y=flow.even, name=f"{name}: even", legendgroup=name, showlegend=False, mode="lines",
            line={"color": style["line"]["color"], "dash": "dot", "width": 1.2}, hoverinfo="skip",
        )  # fmt: skip
    first = next(iter(flows.values()))
    figure.update_xaxes(**layer_axis(first.layers))
    mark_unread(figure, first.layers, first.last_read_layer)
    figure.update_yaxes(title=f"of what CLS {TAKEN[direction]}", tickformat=".0%", rangemode="tozero")
    return finished(figure, f"The object's share of what CLS {TAKEN[direction]}", facts, 400)


def layer_truth_map(found: LayerTruth, facts: str) -> go.Figure:
    """What each layer alone would keep of the object, by what it ranks by.

    How to read: number: per cent of the object that lies in the patches which this layer alone ranks highest, as many
    as the budget; ● its very highest patch, or all that tie for it, lie on the object. Running score: layers up to this
    one together, as FlowCut decides, with no patch pruned before. The value norm is that of the head-averaged value.
    """
    order = [found.by.index(name) for name in RANKED_BY]
    words = [
        [_held(held, pointed) for held, pointed in zip(*rows, strict=True)]
        for rows in zip(found.recall[order], found.pointing[order], strict=True)
    ]
    title = "How much of the object would each layer alone keep?"
    return _rows_by_layer(found.recall[order], list(RANKED_BY.values()), found.layers, words, title, facts)


def flow_kept_map(
    names: Sequence[str],
    layers: np.ndarray,
    kept: np.ndarray,
    facts: str,
    last_read_layer: int,
    direction: Direction = "inflow",
) -> go.Figure:
    """How much of the flow between CLS and the object passes through the patches that each criterion keeps.

    How to read: number: of what CLS gathers from the object's patches (or hands back to them) in this layer of the run
    with all tokens, the per cent that is of patches which the criterion keeps. 100: it keeps all that flows there;
    lower than the share of the object that it keeps: what it prunes carries more than what it keeps. The best on top,
    by the mean over the layers that lead to what the language model reads.

    Args:
        names: of the M criteria.
        layers: int [L].
        kept: float [M, L], 0 to 1, as from `analysis.truth.flow_kept`.
        facts: of the figure.
        last_read_layer: the layer whose output the language model reads.
        direction: which flow it is.
    """  # fmt: skip
    read = is_read(layers, last_read_layer)
    order = np.argsort(-np.nan_to_num(kept, nan=-1.0)[:, read].mean(axis=1), kind="stable")
    words = [[_held(value) for value in row] for row in kept[order]]
    title = f"How much of what CLS {PASSED[direction]} the object does each criterion keep?"
    figure = _rows_by_layer(kept[order], [names[index] for index in order], layers, words, title, facts)
    mark_unread(figure, layers, last_read_layer, over=True)
    return figure


def _held(share: float, pointing: float = 0.0) -> str:
    if not np.isfinite(share):
        return ""
    return f"{'●' if pointing == 1 else ''}{100 * share:.0f}"


def _rows_by_layer(
    values: np.ndarray, rows: Sequence[str], layers: np.ndarray, words: Sequence[Sequence[str]], title: str, facts: str
) -> go.Figure:
    """Shares [M, L] as a field of numbers, one row each, layers to the right."""
    figure = go.Figure(
        go.Heatmap(
            z=values, x=layers, y=list(rows), text=words, texttemplate="%{text}", zmin=0, zmax=1, colorscale=MORE,
            xgap=1, ygap=1, colorbar={"tickformat": ".0%", "thickness": 12}, hoverongaps=False,
            textfont={"size": 12 if len(layers) <= 16 else 9},
            hovertemplate="%{y}, layer %{x}: %{z:.1%}<extra></extra>",
        )
    )  # fmt: skip
    figure.update_xaxes(**{**layer_axis(layers), "dtick": 1, "showgrid": False})
    figure.update_yaxes(type="category", autorange="reversed", showgrid=False)
    return finished(figure, title, facts, 110 + 26 * max(len(rows), 3))


HOW_TO_READ = how_to_read_all((truth_bars, layer_truth_map, object_flow_lines, flow_kept_map))
