"""Agreement: which criteria keep the same patches, rank them alike, and where single layers contradict each other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
import streamlit as st
from scipy.stats import rankdata

from flowcut_lens.analysis.agreement import (
    Ranked,
    contradiction,
    contradiction_claim,
    iou,
    kendall,
    kept_mask,
    layer_rankings,
    spearman,
)
from flowcut_lens.analysis.figures.agreement import contradiction_map, criteria_scatter, heat_matrix, layer_keeps
from flowcut_lens.analysis.proxy import sinks
from flowcut_lens.analysis.views import is_read
from flowcut_lens.app.components.choice import choose
from flowcut_lens.app.components.claim import show_claim
from flowcut_lens.app.components.plots import plot
from flowcut_lens.app.views.compare import methods
from flowcut_lens.app.views.compare.context import Context

if TYPE_CHECKING:
    from flowcut.records.studies import MethodResult

Correlation = Literal["spearman", "kendall"]
RANKS: dict[Correlation, str] = {"spearman": "Ranks (Spearman)", "kendall": "Ranks (Kendall)"}
MEASURES: dict[Literal["iou", "spearman", "kendall"], str] = {
    "iou": "Kept patches (IoU)",
    "spearman": "Ranks (Spearman)",
    "kendall": "Ranks (Kendall)",
}
BY: dict[Ranked, str] = {
    "score": "FlowCut's score S",
    "cls": "CLS attention alone",
    "similarity": "similarity alone",
    "value_norm": "norm of the head-averaged value alone",
}


def show(context: Context) -> None:
    """The section."""
    if context.record.batch != 1:
        st.info("Agreement is shown for models that see a picture as one grid of patches.")
        return
    found = methods.found(context)
    if found is not None:
        _criteria(context, methods.one_draw(found))
    _layers(context)


@st.fragment
def _criteria(context: Context, found: list[MethodResult]) -> None:
    st.html('<h3 class="lens-panel">Criteria against each other</h3>')
    with st.container(horizontal=True, gap="medium", vertical_alignment="bottom"):
        measure = choose("Compared by", MEASURES, "agreement-measure")
        ablations = st.toggle("FlowCut's ablations too", key="agreement-ablations")
    shown = methods.choices(found, context.record.n_patches, ablations)
    plot(heat_matrix(_matrix(shown, measure), [one.name for one in shown], _facts(context), measure), heat_matrix)
    _scatter(context, [one for one in shown if not np.isnan(one.ranking).all()])


def _matrix(shown: list[methods.Choice], measure: str) -> np.ndarray:
    if measure == "iou":
        return iou(kept_mask([one.patch_ids for one in shown], len(shown[0].ranking)))
    return _correlation(np.array([one.ranking for one in shown]), measure)


def _correlation(rankings: np.ndarray, measure: str) -> np.ndarray:
    return spearman(rankings) if measure == "spearman" else kendall(rankings)


def _scatter(context: Context, ranked: list[methods.Choice]) -> None:
    """Two criteria's ranks, chosen by name; sinks ringed."""
    if len(ranked) < 2:
        return
    names = [one.name for one in ranked]
    across, up = st.columns(2)
    first = across.selectbox("Across", range(len(names)), format_func=names.__getitem__, key="scatter-x")
    second = up.selectbox("Up", range(len(names)), index=1, format_func=names.__getitem__, key="scatter-y")
    one, other = ranked[first], ranked[second]
    kept = kept_mask([one.patch_ids, other.patch_ids], context.record.n_patches)
    last = sinks(context.record).marked[context.record.feature_layer]
    axes = (f"{one.name}, rank", f"{other.name}, rank")
    ranks = rankdata(one.ranking), rankdata(other.ranking)
    figure = criteria_scatter(
        ranks[0], ranks[1], axes, _facts(context), (kept[0], kept[1]), last, "sink at the feature layer"
    )
    plot(figure, criteria_scatter)


@st.fragment
def _layers(context: Context) -> None:
    st.html('<h3 class="lens-panel">Single layers against each other, and what accumulating does</h3>')
    by = choose("Each layer ranks by", BY, "layers-by")
    facts = context.facts(BY[by], f"mean of {context.record.n_heads} heads", "official", f"budget {context.tokens}")
    divided = contradiction(context.record, context.tokens, by)
    geometry = context.record.geometries[0]
    st.markdown(
        f"**{(divided.contradiction > 0).mean():.0%}** of the patches are kept by some layers and dropped by others; "
        f"the accumulated score goes against most layers for **{(divided.overruled > 0.5).sum()}** patches."
    )
    plot(contradiction_map(divided, geometry, facts, context.image), contradiction_map)
    show_claim(contradiction_claim(context.record, context.tokens))
    plot(layer_keeps(divided, geometry, facts, context.image), layer_keeps)
    measure = choose("Layers' ranks by", RANKS, "layers-measure")
    rankings = layer_rankings(context.record, by)
    layers = np.array([layer.layer for layer in context.record.layers])
    unread = int((~is_read(layers, context.record.last_read_layer)).sum())
    matrix = _correlation(rankings, measure)
    figure = heat_matrix(matrix, [str(layer) for layer in layers], facts, measure, "vision layer", unread)
    plot(figure, heat_matrix, "layer-matrix")


def _facts(context: Context) -> str:
    return context.facts(
        f"budget {context.tokens} of {context.full.visual_tokens}", "random: seed 0", "FlowCut: both variants"
    )
