"""Flow by depth: where patches read from and who reads them, how far, how evenly, and how much each carries."""

from __future__ import annotations

import numpy as np
import streamlit as st

from flowcut.records.vision import FlowRecord
from flowcut_lens.analysis.agreement import norm_agreement
from flowcut_lens.analysis.depth import ValueNorm, density, flow_shares, has_head_norms, spread, streamlines
from flowcut_lens.analysis.figures.depth import density_lines, flow_share_lines, spread_lines, value_boxes
from flowcut_lens.analysis.figures.patches import patch_maps, streamlines_map
from flowcut_lens.analysis.findings import density_claim, flow_claim, spread_claims
from flowcut_lens.analysis.relay import Direction
from flowcut_lens.analysis.views import NOT_READ, is_read
from flowcut_lens.app.components.choice import choose
from flowcut_lens.app.components.claim import show_claim
from flowcut_lens.app.components.plots import plot
from flowcut_lens.app.views.compare.context import Context

FOLLOW: dict[Direction, str] = {"inflow": "back to each source", "outflow": "onwards to each reader"}
NORMS: dict[ValueNorm, str] = {"pooled": "of the head-averaged value", "per head": "of each head, then averaged"}
NO_HEAD_NORMS = (
    "The norms shown are of the head-averaged value, by which FlowCut weighs. This run was recorded without those of "
    "single heads: press Run to ask again and see both."
)
BEHIND_THE_CUT = (
    "F6 has no verdict here: this run prunes behind the layer that the language model reads, and nothing up to it has "
    "fewer patches."
)


def show(context: Context) -> None:
    """The section: the run with all tokens against the pruned one."""
    runs = {context.full.title: context.record.image(0)}
    if context.pruned.record is not None and context.pruned.record.layers:
        runs[context.pruned.title] = context.pruned.record.image(0)
    facts = context.facts(" and ".join(runs), f"mean of {context.record.n_heads} heads", context.record.relay_name)
    shares = {name: flow_shares(record) for name, record in runs.items()}
    plot(flow_share_lines(shares, facts), flow_share_lines)
    show_claim(flow_claim(shares[context.full.title], context.record.relay))
    spreads = {name: spread(record) for name, record in runs.items()}
    plot(spread_lines(spreads, facts), spread_lines)
    for claim in spread_claims(spreads[context.full.title]):
        show_claim(claim)
    _carried(context, runs, facts)
    _maps(context)


@st.fragment
def _carried(context: Context, runs: dict[str, FlowRecord], facts: str) -> None:
    """How much patches carry, by the norm of the head-averaged value or by those of single heads."""
    norm: ValueNorm = "pooled"
    if all(map(has_head_norms, runs.values())):
        norm = choose("Value norm", NORMS, "value-norm")
        _norms_in_words(runs[context.full.title])
    else:
        st.caption(NO_HEAD_NORMS)
    carried = {name: density(record, norm=norm) for name, record in runs.items()}
    plot(density_lines(carried, facts), density_lines)
    if context.pruned.title in carried:
        claim = density_claim(carried[context.full.title], carried[context.pruned.title])
        st.caption(BEHIND_THE_CUT) if claim is None else show_claim(claim)
    plot(value_boxes(carried, facts), value_boxes)


def _norms_in_words(record: FlowRecord) -> None:
    """How differently the two norms rank the patches."""
    layers = np.array([layer.layer for layer in record.layers])
    alike = norm_agreement(record)[is_read(layers, record.last_read_layer)]
    st.caption(
        f"The two norms rank the patches of one layer alike by {np.nanmin(alike):.2f} (layer "
        f"{layers[np.nanargmin(alike)]}) to {np.nanmax(alike):.2f} (layer {layers[np.nanargmax(alike)]}): Spearman's ρ "
        "in the run with all tokens. Averaging the heads first lets values of opposite sign cancel."
    )


@st.fragment
def _maps(context: Context) -> None:
    """CLS attention layer by layer over the picture, and the chains of strongest partners."""
    geometry, record = context.record.geometries[0], context.record.image(0)
    facts = context.facts(context.full.title, f"mean of {record.n_heads} heads", record.relay_name)
    for behind in (False, True):
        layers = [layer for layer in record.layers if (layer.layer > record.last_read_layer) == behind]
        rows = {f"layer {layer.layer}": layer.cls_row[0, :, 1:].mean(axis=0) for layer in layers}
        if rows:
            title = f"CLS attention {NOT_READ}" if behind else "CLS attention by depth"
            figure = patch_maps(rows, geometry, facts, title, None if behind else context.image, spread=not behind)
            plot(figure, patch_maps, "unread-maps" if behind else None)
    direction = choose("Follow", FOLLOW, "streamlines-direction")
    plot(streamlines_map(streamlines(record, None, direction), geometry, facts, context.image), streamlines_map)
