"""Flow by depth: where patches read from and who reads them, how far, how evenly, and how much each carries."""

from __future__ import annotations

import streamlit as st

from flowcut_lens.analysis.depth import density, flow_shares, spread, streamlines
from flowcut_lens.analysis.figures.depth import density_lines, flow_share_lines, spread_lines, value_boxes
from flowcut_lens.analysis.figures.patches import patch_maps, streamlines_map
from flowcut_lens.analysis.relay import Direction
from flowcut_lens.app.components.choice import choose
from flowcut_lens.app.components.plots import plot
from flowcut_lens.app.views.compare.context import Context

FOLLOW: dict[Direction, str] = {"inflow": "back to each source", "outflow": "onwards to each reader"}


def show(context: Context) -> None:
    """The section: the run with all tokens against the pruned one."""
    runs = {context.full.title: context.record.image(0)}
    if context.pruned.record is not None and context.pruned.record.layers:
        runs[context.pruned.title] = context.pruned.record.image(0)
    facts = context.facts(" and ".join(runs), f"mean of {context.record.n_heads} heads", context.record.relay_name)
    plot(flow_share_lines({name: flow_shares(record) for name, record in runs.items()}, facts), flow_share_lines)
    plot(spread_lines({name: spread(record) for name, record in runs.items()}, facts), spread_lines)
    carried = {name: density(record) for name, record in runs.items()}
    plot(density_lines(carried, facts), density_lines)
    plot(value_boxes(carried, facts), value_boxes)
    _maps(context)


@st.fragment
def _maps(context: Context) -> None:
    """CLS attention layer by layer over the picture, and the chains of strongest partners."""
    geometry, record = context.record.geometries[0], context.record.image(0)
    facts = context.facts(context.full.title, f"mean of {record.n_heads} heads", record.relay_name)
    rows = {f"layer {layer.layer}": layer.cls_row[0, :, 1:].mean(axis=0) for layer in record.layers}
    plot(patch_maps(rows, geometry, facts, "CLS attention by depth", context.image), patch_maps)
    direction = choose("Follow", FOLLOW, "streamlines-direction")
    plot(streamlines_map(streamlines(record, None, direction), geometry, facts, context.image), streamlines_map)
