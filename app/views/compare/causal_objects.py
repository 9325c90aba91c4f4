"""The causal check by whole objects: the scene drawn and encoded again without each, and its patches left out."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
import streamlit as st

from flowcut.criteria import METHODS
from flowcut.criteria.stages import DECODER
from flowcut.records.studies import MethodResult, ObjectKnockOut
from flowcut.settings import Generation
from flowcut_lens.analysis.agreement import kept_mask
from flowcut_lens.analysis.truth import patch_coverage, recall
from flowcut_lens.app.components.formatting import signed
from flowcut_lens.app.components.table import table
from flowcut_lens.app.jobs.studies import Study
from flowcut_lens.app.media import gallery
from flowcut_lens.app.views.compare import methods
from flowcut_lens.app.views.compare.context import Context
from flowcut_lens.app.views.compare.study import StudySpec, follow
from flowcut_lens.scenes import SceneObject, about, draw

if TYPE_CHECKING:
    from flowcut.models.loading import VisionLanguageModel

NO_SCENE = "Only a drawn scene can be drawn again without one of its objects: choose one, or draw a new one."
TAKES = "A few seconds for each object with the embedded model: it is drawn, encoded and asked again."
HOW_TO_READ = (
    "“Never painted”: the same scene drawn without the object, all else as it was, encoded and asked again; where "
    "the answer then changes, the object is needed. “Its patches left out”: the picture as it is, but the language "
    "model is not given the patches that show the object (positions kept); what they gave to others inside the "
    "encoder stays. Both in log-odds of the full answer that are lost. It sees whether an object is needed; it says "
    "nothing of where inside it the answer is read, and two objects that stand in for each other are both spared."
)
BLIND = (
    "Methods marked “blind” never see the question: they keep the same patches whatever is asked, and cannot tell a "
    "needed object from another. What they keep more of needed objects here is a matter of what people ask about."
)


def show(context: Context, found: list[MethodResult]) -> None:
    """The reading."""
    if context.picture.seed is None:
        st.info(NO_SCENE)
        return
    follow(context, plan(context), lambda results: _results(context, results, found))


def plan(context: Context) -> StudySpec:
    """Every object of the scene, one after the other."""
    seed = context.picture.seed
    assert seed is not None
    scene, geometry = gallery.scene(seed), context.record.geometries[0]
    settings = Generation.from_facts(context.full.generation)

    def work(model: VisionLanguageModel, study: Study) -> Iterator[Any]:
        import flowcut

        objects = {
            str(place): (draw(seed, without=place).image, np.flatnonzero(patch_coverage(thing.mask, geometry)))
            for place, thing in enumerate(scene.objects)
        }
        asked = (model, context.picture.open(), context.full.question, context.full.token_ids, objects)
        for done, one in enumerate(flowcut.knock_out_objects(*asked, settings=settings), 1):
            study.report("Drawing and asking again without each object", done / len(objects))
            yield one

    return StudySpec(context.key("objects"), work, "Take objects away", TAKES)


def _results(context: Context, results: list[ObjectKnockOut], found: list[MethodResult]) -> None:
    assert context.picture.seed is not None
    scene = gallery.scene(context.picture.seed)
    asked = about(scene, context.full.question) or ()
    rows = [_row(scene.objects[int(one.name)], int(one.name) in asked, one) for one in results]
    head = ("object", "never painted: lost", "answer", "its patches left out: lost", "answer")
    table("objects", head, rows)
    st.caption(f"**How to read this.** {HOW_TO_READ}")
    st.caption(context.facts(f"drawn scene {context.picture.seed}", "log-odds of the full answer", "positions kept"))
    if len(results) == len(scene.objects):
        _kept(context, results, found)


def _row(thing: SceneObject, asked: bool, one: ObjectKnockOut) -> str:
    name = f"{thing.size} {thing.colour} {thing.shape}, {thing.place}" + (" (asked about)" if asked else "")
    words = f"✗ {one.answer or '(empty)'}" if one.flips_without_object else "✓ same"
    patches = "✗ another" if one.flips_without_patches else "✓ same"
    lost = (signed(one.full - drop, plus=True) for drop in (one.without_object, one.without_patches))
    cells = (name, next(lost), words, next(lost), patches)
    return f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>"


def _kept(context: Context, results: list[ObjectKnockOut], found: list[MethodResult]) -> None:
    """What each criterion keeps of the needed objects, and of the others."""
    n_patches = context.record.n_patches
    shown = methods.choices(methods.one_draw(found), n_patches, False)
    kept = kept_mask([one.patch_ids for one in shown], n_patches)
    needed = [one.patch_ids for one in results if one.flips_without_object]
    others = [one.patch_ids for one in results if not one.flips_without_object]
    shares = [_mean_share(group, kept) for group in (needed, others)]
    rows = []
    for place, one in enumerate(shown):
        blind = "" if METHODS[one.cut.method].cuts_at is DECODER else " (blind)"
        cells = (one.name + blind, *(_percent(share[place]) for share in shares))
        rows.append(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>")
    head = ("criterion", f"of {len(needed)} needed objects, patches kept", f"of {len(others)} others")
    table("objects-kept", head, rows)
    st.caption(f"**How to read this.** Share of an object's patches among those kept, mean over objects. {BLIND}")
    st.caption(context.facts(f"budget {context.tokens} of {context.full.visual_tokens}", "random: seed 0"))


def _mean_share(objects: list[np.ndarray], kept: np.ndarray) -> np.ndarray:
    """float64 [M], mean over objects of the share of its patches in each kept set; NaN: there are none."""
    if not objects:
        return np.full(len(kept), np.nan)
    shares = [recall(kept_mask([patches], kept.shape[1])[0], kept) for patches in objects]
    return np.asarray(np.mean(shares, axis=0))


def _percent(share: float) -> str:
    return "–" if np.isnan(share) else f"{share:.0%}"
