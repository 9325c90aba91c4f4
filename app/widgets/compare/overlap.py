"""Agreement: which criteria keep the same patches, rank them alike, and where single layers contradict each other."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import streamlit as st

from analysis.agreement import contradiction, iou, kept_mask, layer_rankings, spearman
from analysis.agreement import kendall as kendall_tau
from analysis.figures.agreement import contradiction_map, criteria_scatter, heat_matrix, layer_keeps
from analysis.proxy import sinks
from app.widgets.compare import methods
from app.widgets.compare.plots import plot
from app.widgets.compare.subject import Subject
from flowcut.criteria import METHODS

if TYPE_CHECKING:
    from flowcut.study_results import MethodResult

MEASURES = {"iou": "Kept patches (IoU)", "spearman": "Ranks (Spearman)", "kendall": "Ranks (Kendall)"}
BY = {"score": "FlowCut's score S", "cls": "CLS attention alone"}


def show(about: Subject) -> None:
    """The section."""
    if about.record.batch != 1:
        st.info("Agreement is shown for models that see a picture as one grid of patches.")
        return
    found = methods.found(about)
    if found is not None:
        _criteria(about, [one for one in found if one.run is not None and one.run.final_patch_ids is not None])
    _layers(about)


@st.fragment
def _criteria(about: Subject, found: list[MethodResult]) -> None:
    st.html('<h3 class="lens-panel">Criteria against each other</h3>')
    with st.container(horizontal=True, gap="medium", vertical_alignment="bottom"):
        measure = st.segmented_control(
            "Compared by", list(MEASURES), format_func=MEASURES.__getitem__, key="agreement-measure", default="iou",
            required=True,
        ) or "iou"  # fmt: skip
        ablations = st.toggle("FlowCut's ablations too", key="agreement-ablations")
    shown = [one for one in methods.one_draw(found) if ablations or METHODS[one.cut.method].kind != "ablation"]
    plot(heat_matrix(_matrix(about, shown, measure), methods.names(shown), _facts(about), measure), heat_matrix)
    _scatter(about, [one for one in shown if one.run is not None and one.run.ranking is not None])


def _matrix(about: Subject, shown: list[MethodResult], measure: str) -> np.ndarray:
    if measure == "iou":
        return iou(kept_mask([one.run.final_patch_ids for one in shown], about.record.n_patches))
    nothing = np.full(about.record.n_patches, np.nan)
    rankings = np.array([nothing if one.run.ranking is None else one.run.ranking for one in shown], np.float64)
    return spearman(rankings) if measure == "spearman" else kendall_tau(rankings)


def _scatter(about: Subject, ranked: list[MethodResult]) -> None:
    """Two criteria's ranks, chosen by name; sinks ringed."""
    if len(ranked) < 2:
        return
    names = methods.names(ranked)
    across, up = st.columns(2)
    first = across.selectbox("Across", range(len(names)), format_func=names.__getitem__, key="scatter-x")
    second = up.selectbox("Up", range(len(names)), index=1, format_func=names.__getitem__, key="scatter-y")
    pair = [ranked[first].run, ranked[second].run]
    kept = kept_mask([run.final_patch_ids for run in pair], about.record.n_patches)
    last = sinks(about.record).marked[about.record.feature_layer]
    values = [np.argsort(np.argsort(run.ranking, kind="stable")).astype(float) for run in pair]
    axes = (f"{names[first]}, rank", f"{names[second]}, rank")
    figure = criteria_scatter(*values, axes, _facts(about), (kept[0], kept[1]), last, "sink at the feature layer")
    plot(figure, criteria_scatter)


@st.fragment
def _layers(about: Subject) -> None:
    st.html('<h3 class="lens-panel">Single layers against each other, and what accumulating does</h3>')
    by = st.segmented_control(
        "Each layer ranks by", list(BY), format_func=BY.__getitem__, key="layers-by", default="score", required=True
    ) or "score"
    facts = about.facts(BY[by], f"mean of {about.record.n_heads} heads", "official", f"budget {about.tokens}")
    divided = contradiction(about.record, about.tokens, by)
    geometry = about.record.geometries[0]
    st.markdown(
        f"**{(divided.contradiction > 0).mean():.0%}** of the patches are kept by some layers and dropped by others; "
        f"the accumulated score goes against most layers for **{(divided.overruled > 0.5).sum()}** patches."
    )
    plot(contradiction_map(divided, geometry, facts, about.image), contradiction_map)
    plot(layer_keeps(divided, geometry, facts, about.image), layer_keeps)
    measure = st.segmented_control(
        "Layers' ranks by", ["spearman", "kendall"], format_func=MEASURES.__getitem__, key="layers-measure",
        default="spearman", required=True,
    ) or "spearman"  # fmt: skip
    rankings = layer_rankings(about.record, by)
    matrix = spearman(rankings) if measure == "spearman" else kendall_tau(rankings)
    plot(heat_matrix(matrix, [str(layer.layer) for layer in about.record.layers], facts, measure), heat_matrix, "layer-matrix")


def _facts(about: Subject) -> str:
    return about.facts(f"budget {about.tokens} of {about.full.visual_tokens}", "random: seed 0", "FlowCut: both variants")
