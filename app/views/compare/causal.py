"""The causal check: take patches away, see what it does to the answer, and which criterion ranks them like that."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import streamlit as st
from PIL.Image import Image

from flowcut.criteria import METHODS
from flowcut.records.mask_picture import heat_picture
from flowcut.records.studies import KnockOut, MethodResult, RemovalCurves
from flowcut_lens.analysis.causal import (
    DRAWS,
    Agreement,
    band,
    curve_area,
    in_drawn_order,
    object_agreement,
    rank_agreement,
)
from flowcut_lens.analysis.figures.causal import causal_bars, removal_areas, removal_curves
from flowcut_lens.app.components.choice import choose
from flowcut_lens.app.components.formatting import signed
from flowcut_lens.app.components.plots import plot
from flowcut_lens.app.jobs.studies import Study
from flowcut_lens.app.views.compare import methods
from flowcut_lens.app.views.compare.context import Context
from flowcut_lens.app.views.compare.mask_thumbnails import on_small, small
from flowcut_lens.app.views.compare.study import StudySpec, follow
from flowcut_lens.app.views.compare.truth import known_coverage

if TYPE_CHECKING:
    from flowcut.models.loading import VisionLanguageModel

SIDE = 300
TRUTH = "The object asked about"
"""What stands beside the criteria as a reference, where the pixels of what was asked about are known."""
WHAT_TRUTH_IS = (
    "is no criterion but the truth of this drawn scene: patches by how much they show of what the question names, all "
    f"others in an order that is drawn (agreement: mean of {DRAWS} orders; curves: one). It says what a ranking would "
    "reach here that knew where the object is and nothing else; the tables of `benchmarks/causal.md` mean the same."
)
BLOCKS = {1: "one by one", 2: "2 × 2", 4: "4 × 4"}
BLOCK_HELP = "Blocks are quicker, and find what neighbours hold between them"
STEPS = 16
TAKES = "With the embedded model less than a minute and a half for all 576 patches; the page can be left meanwhile."
MAPS = (
    ("Taken away alone", "the answer's log-prob drop without this patch", lambda one: one.logprob_drop),
    (
        "Shown alone",
        "how much it rises with this patch alone, against no image",
        lambda knocked: knocked.insertion - knocked.no_image,
    ),
)
HOW_TO_READ = (
    "Full orange is the largest change, grey none or a change the other way. Both ask what the language model needs "
    "of the vision encoder's output: what a patch gave to others inside the encoder before is not undone by it."
)


@dataclass(frozen=True)
class Trust:
    """How well each criterion's ranking agrees with the knock-outs."""

    agreements: dict[str, Agreement]


def show(context: Context) -> None:
    """The section."""
    if context.full.visual_tokens != context.record.n_patches or context.record.batch != 1:
        st.info("Patches are taken away one by one where each is one visual token of the language model.")
        return
    found = methods.found(context)
    if found is None:
        return
    block = choose("Patches taken away together", BLOCKS, "knock-out-block", BLOCK_HELP)
    follow(context, plan(context, block, found), lambda results: _results(context, results, found))


def rankings_of(context: Context, found: list[MethodResult]) -> dict[str, np.ndarray]:
    """Every criterion's ranking of the patches, by its name; several random draws among them.

    Where the truth is known, what is asked about ranks too: what a criterion would reach that knew it.
    """
    ranked = [one.run for one in found if one.run is not None and one.run.cut is not None]
    rankings = {methods.short_title(run.cut): run.ranking for run in ranked if run.cut and run.ranking is not None}
    shown = known_coverage(context)
    if shown is None:
        return rankings
    order = in_drawn_order(shown, np.random.default_rng(0).random((1, len(shown))))[0]
    return {**rankings, TRUTH: order.astype(np.float32)}


def plan(context: Context, block: int, found: list[MethodResult]) -> StudySpec:
    """Knock-out of every block, then deletion and insertion in the order of every criterion."""
    rankings = rankings_of(context, found)

    def work(model: VisionLanguageModel, study: Study) -> Iterator[Any]:
        import flowcut

        asked = (model, context.picture.open(), context.full.question, context.full.token_ids)
        for state in flowcut.knock_out(*asked, block=block, system=context.system):
            study.report("Taking patches away", 0.7 * state.done)
            yield state
        study.report("Comparing rankings", 0.7)
        yield _trusted(rankings, known_coverage(context), state)
        curves = flowcut.deletion_insertion(*asked, rankings, steps=STEPS, system=context.system)
        for done, curve in enumerate(curves, 1):
            study.report("Removing and adding patches in each criterion's order", 0.7 + 0.3 * done / len(rankings))
            yield curve

    return StudySpec(context.key("causal", context.tokens, block), work, "Take patches away", TAKES)


def _trusted(rankings: dict[str, np.ndarray], shown: np.ndarray | None, knocked: KnockOut) -> Trust:
    """How well each ranking agrees; of the truth the mean over several orders of what shows nothing of the object."""
    agreements = rank_agreement(rankings, knocked.logprob_drop, knocked.block_of_patch)
    if shown is not None:
        agreements[TRUTH] = object_agreement(shown, knocked.logprob_drop, knocked.block_of_patch)
    return Trust(agreements)


def _results(context: Context, results: list[Any], found: list[MethodResult]) -> None:
    knocked = next((one for one in reversed(results) if isinstance(one, KnockOut)), None)
    if knocked is None:
        return
    _maps(context, knocked)
    for trust in (one for one in results if isinstance(one, Trust)):
        _trust(context, knocked, trust)
    curves = {one.name: one for one in results if isinstance(one, RemovalCurves)}
    if len(curves) == len(rankings_of(context, found)):
        _curves(context, curves, knocked)


def _maps(context: Context, knocked: KnockOut) -> None:
    """What taking each patch away does, and what each does alone, over the picture."""
    one = "patch" if knocked.block == 1 else "block"
    st.markdown(
        f"Log-prob of the full answer: **{signed(knocked.full)}** with all patches, "
        f"**{signed(knocked.no_image)}** with none. Taking one {one} away costs at most "
        f"**{signed(float(np.nanmax(knocked.logprob_drop, initial=0)))}** nats."
    )
    picture = small(context.image, SIDE)
    for column, (title, meaning, change) in zip(st.columns(2), MAPS, strict=True):
        column.image(_heat(context, picture, knocked, change), alt=f"{title}: {meaning}", width="content")
        column.caption(f"**{title}**: {meaning}")
    st.caption(f"**How to read this.** {HOW_TO_READ}")
    st.caption(context.facts(f"blocks of {BLOCKS[knocked.block]}", "all tokens but those taken away"))


def _heat(context: Context, picture: Image, knocked: KnockOut, change: Callable[[KnockOut], np.ndarray]) -> Image:
    of_patch = np.nan_to_num(change(knocked))[knocked.block_of_patch].clip(0)
    geometry = on_small(context.record.geometries[0], picture)
    return heat_picture(picture, geometry, np.arange(len(of_patch)), of_patch, float(of_patch.max()))


def _trust(context: Context, knocked: KnockOut, trust: Trust) -> None:
    facts = context.facts(
        f"budget {context.tokens}",
        f"{len(knocked.logprob_drop)} knock-outs",
        f"1,000 bootstrap draws of single {'patches' if knocked.block == 1 else 'blocks'}, seed 0",
    )
    plot(causal_bars(trust.agreements, facts), causal_bars)
    if TRUTH in trust.agreements:
        st.caption(f"“{TRUTH}” {WHAT_TRUTH_IS}")


def _curves(context: Context, curves: dict[str, RemovalCurves], knocked: KnockOut) -> None:
    """Deletion and insertion, random as a band, and the areas of all."""
    draws = [one for name, one in curves.items() if _is_random(name)]
    others = {name: one for name, one in curves.items() if not _is_random(name)}
    if not others or not draws:
        return
    few = [name for name in others if name in _USUAL] or list(others)
    chosen = st.pills("Curves of", list(others), selection_mode="multi", default=few[: len(_USUAL)], key="curves-of")
    facts = context.facts(f"rankings at budget {context.tokens}", f"random: {len(draws)} seeds")
    removed = draws[0].removed
    for kind in ("deletion", "insertion"):
        shown = {name: getattr(others[name], kind) for name in chosen}
        random = band([getattr(one, kind) for one in draws])
        figure = removal_curves(removed, shown, facts, kind, random, knocked.full, knocked.no_image)
        plot(figure, removal_curves, f"curves-{kind}")
    deletion, insertion = _areas(curves, "deletion", knocked), _areas(curves, "insertion", knocked)
    figure = removal_areas(
        {name: deletion[name] for name in others},
        {name: insertion[name] for name in others},
        facts,
        [deletion[name] for name in curves if _is_random(name)],
        [insertion[name] for name in curves if _is_random(name)],
    )
    plot(figure, removal_areas)


def _areas(curves: dict[str, RemovalCurves], kind: str, knocked: KnockOut) -> dict[str, float]:
    """The area under each curve, on the scale where the full picture is 1 and no image 0."""
    return {
        name: curve_area(curve.removed, getattr(curve, kind), knocked.full, knocked.no_image)
        for name, curve in curves.items()
    }


_USUAL = ("FlowCut, official", "FlowCut, paper", "CLS attention", "VisPruner", "DivPrune", "FastV", TRUTH)
"""Curves that are drawn unless others are chosen."""


def _is_random(name: str) -> bool:
    return name.startswith(METHODS["random"].label)
