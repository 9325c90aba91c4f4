"""The causal check, by one of three readings: random sets of blocks, whole objects, or single blocks taken away."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import streamlit as st
from PIL.Image import Image

from flowcut.records.mask_picture import heat_picture
from flowcut.records.studies import KnockOut, MethodResult, RemovalCurves
from flowcut_lens.analysis.causal import band, curve_area, needed
from flowcut_lens.analysis.figures.causal import causal_bars, removal_areas, removal_curves
from flowcut_lens.app.components.choice import choose
from flowcut_lens.app.components.formatting import signed
from flowcut_lens.app.components.plots import plot
from flowcut_lens.app.jobs.studies import Study
from flowcut_lens.app.views.compare import causal_objects, causal_subsets, methods
from flowcut_lens.app.views.compare.context import Context
from flowcut_lens.app.views.compare.mask_thumbnails import on_small, small
from flowcut_lens.app.views.compare.rankings import (
    TRUTH,
    Trust,
    is_random,
    rankings_of,
    show_validity,
    trusted,
    what_truth_is,
)
from flowcut_lens.app.views.compare.study import StudySpec, follow
from flowcut_lens.app.views.compare.truth import known_coverage

if TYPE_CHECKING:
    from flowcut.models.loading import VisionLanguageModel

SIDE = 300
READINGS = {"subsets": "Random sets", "objects": "Whole objects", "blocks": "Single blocks"}
READING_HELP = (
    "Random sets ask what carries the answer at the budget at which methods cut; whole objects what the answer is "
    "truly about; single blocks what the full picture cannot spare"
)
BLOCKS = {1: "one by one", 2: "2 × 2", 4: "4 × 4"}
BLOCK_HELP = "Blocks are quicker, and find what neighbours hold between them"
STEPS = 16
TAKES = "With the embedded model less than a minute and a half for all 576 patches; the page can be left meanwhile."
MAPS = (
    ("Taken away alone", "how far the answer's log-prob moves without this patch, up or down", needed),
    (
        "Shown alone",
        "how much it rises with this patch alone, against no image",
        lambda knocked: knocked.insertion - knocked.no_image,
    ),
)
HOW_TO_READ = (
    "Full orange is the largest change, grey none (shown alone: or a change the other way). Both ask what the "
    "language model needs of the vision encoder's output: what a patch gave to others inside the encoder before is "
    "not undone by it. From the full picture others stand in for nearly every patch, so that this reading sees "
    "little of what carries the answer; random sets see that. All tokens that stay have the positions of the full "
    "prompt: counted anew, each knock-out would move all tokens behind it, and measure that."
)


def show(context: Context) -> None:
    """The section."""
    if context.full.visual_tokens != context.record.n_patches or context.record.batch != 1:
        st.info("Patches are taken away one by one where each is one visual token of the language model.")
        return
    found = methods.found(context)
    if found is None:
        return
    reading = choose("What is taken away", READINGS, "causal-reading", READING_HELP)
    if reading == "subsets":
        causal_subsets.show(context, found)
    elif reading == "objects":
        causal_objects.show(context, found)
    else:
        block = choose("Patches taken away together", BLOCKS, "knock-out-block", BLOCK_HELP)
        follow(context, plan(context, block, found), lambda results: _results(context, results, found))


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
        yield trusted(rankings, known_coverage(context), needed(state), state.block_of_patch)
        curves = flowcut.deletion_insertion(*asked, rankings, steps=STEPS, system=context.system)
        for done, curve in enumerate(curves, 1):
            study.report("Removing and adding patches in each criterion's order", 0.7 + 0.3 * done / len(rankings))
            yield curve

    return StudySpec(context.key("causal-kept", context.tokens, block), work, "Take patches away", TAKES)


def _results(context: Context, results: list[Any], found: list[MethodResult]) -> None:
    knocked = next((one for one in reversed(results) if isinstance(one, KnockOut)), None)
    if knocked is None:
        return
    _maps(context, knocked)
    for trust in (one for one in results if isinstance(one, Trust)):
        _trust(context, knocked, trust, found)
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
    st.caption(context.facts(f"blocks of {BLOCKS[knocked.block]}", "all tokens but those taken away", "positions kept"))


def _heat(context: Context, picture: Image, knocked: KnockOut, change: Callable[[KnockOut], np.ndarray]) -> Image:
    of_patch = np.nan_to_num(change(knocked))[knocked.block_of_patch].clip(0)
    geometry = on_small(context.record.geometries[0], picture)
    return heat_picture(picture, geometry, np.arange(len(of_patch)), of_patch, float(of_patch.max()))


def _trust(context: Context, knocked: KnockOut, trust: Trust, found: list[MethodResult]) -> None:
    facts = context.facts(
        f"budget {context.tokens}", f"{len(knocked.logprob_drop)} knock-outs", "positions kept",
        f"1,000 bootstrap draws of single {'patches' if knocked.block == 1 else 'blocks'}, seed 0",
    )  # fmt: skip
    plot(causal_bars(trust.agreements, facts), causal_bars)
    show_validity(trust, found)
    what_truth_is(trust)


def _curves(context: Context, curves: dict[str, RemovalCurves], knocked: KnockOut) -> None:
    """Deletion and insertion, random as a band, and the areas of all."""
    draws = [one for name, one in curves.items() if is_random(name)]
    others = {name: one for name, one in curves.items() if not is_random(name)}
    if not others or not draws:
        return
    few = [name for name in others if name in _USUAL] or list(others)
    chosen = st.pills("Curves of", list(others), selection_mode="multi", default=few[: len(_USUAL)], key="curves-of")
    facts = context.facts(f"rankings at budget {context.tokens}", f"random: {len(draws)} seeds", "positions kept")
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
        [deletion[name] for name in curves if is_random(name)],
        [insertion[name] for name in curves if is_random(name)],
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
