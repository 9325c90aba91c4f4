"""Figures of ground truth: how much of the object that is asked about is kept, pointed at and passed on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go

from analysis.figures.look import COLOURS, NEUTRAL, finished, how_to_read_all, layer_axis, line_and_marker
from analysis.relay import Direction
from analysis.truth import ObjectFlow


def truth_bars(
    names: Sequence[str],
    recall: np.ndarray,
    facts: str,
    pointing: np.ndarray | None = None,
    chance: float | None = None,
) -> go.Figure:
    """How much of the object each criterion keeps, and whether its highest-ranked patch lies on it.

    How to read: bar: the part of the object that the question is about which lies in kept patches, 100%: all of it;
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
        figure.add_vline(x=chance, line=line, name=f"by chance: {chance:.0%}", showlegend=True)
    figure.update_xaxes(title="part of the object that is kept", range=[0, 1.12], tickformat=".0%", dtick=0.2)
    return finished(figure, "Is the object asked about kept?", facts, 90 + 30 * max(len(names), 2))


def _pointed(value: float) -> str:
    if not np.isfinite(value):
        return "–"
    return {0.0: "○", 1.0: "●"}.get(float(value), f"{value:.0%}")


def object_flow_lines(flows: Mapping[str, ObjectFlow], facts: str, direction: Direction = "inflow") -> go.Figure:
    """The object's share of what passes through CLS, by layer and criterion.

    How to read: line: share of what CLS gathers (or hands back) that is of the object's patches, mean over heads;
    dotted, in the same colour: their share of the patches alive, what even attention would give. A line above its
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
            x=flow.layers, y=flow.alive, name=f"{name}: even", legendgroup=name, showlegend=False, mode="lines",
            line={"color": style["line"]["color"], "dash": "dot", "width": 1.2}, hoverinfo="skip",
        )  # fmt: skip
    longest = max((flow.layers for flow in flows.values()), key=len, default=np.arange(1))
    figure.update_xaxes(**layer_axis(longest))
    taken = "gathers" if direction == "inflow" else "hands back"
    figure.update_yaxes(title=f"of what CLS {taken}", tickformat=".0%", rangemode="tozero")
    return finished(figure, f"The object's share of what CLS {taken}", facts, 400)


HOW_TO_READ = how_to_read_all((truth_bars, object_flow_lines))
