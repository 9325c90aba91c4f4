"""The causal check by random sets of blocks: what each adds to the answer where methods cut, and how sure that is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import streamlit as st

from flowcut.records.mask_picture import heat_picture
from flowcut.records.studies import MethodResult, SubsetEffects
from flowcut_lens.analysis.figures.causal import settling, subset_bars
from flowcut_lens.app.components.choice import choose
from flowcut_lens.app.components.formatting import signed
from flowcut_lens.app.components.plots import plot
from flowcut_lens.app.jobs.studies import Study
from flowcut_lens.app.views.compare.context import Context
from flowcut_lens.app.views.compare.mask_thumbnails import on_small, small
from flowcut_lens.app.views.compare.rankings import Trust, rankings_of, show_validity, trusted, what_truth_is
from flowcut_lens.app.views.compare.study import StudySpec, follow
from flowcut_lens.app.views.compare.truth import known_coverage

if TYPE_CHECKING:
    from flowcut.models.loading import VisionLanguageModel

SIDE = 300
MOST_SETS = 6400
RELIABLE = 0.6
BLOCKS = {2: "2 × 2", 3: "3 × 3", 4: "4 × 4"}
BLOCK_HELP = "Larger blocks are known sooner, and say less of where"
TAKES = (
    f"It ends by itself at a reliability of {RELIABLE}, or after {MOST_SETS:,} random sets: with the embedded model "
    "about half a minute of one core. The page can be left meanwhile."
)
HOW_TO_READ = (
    "Full orange: the block that adds most to the answer's log-odds among random sets; grey: no more than the mean "
    "block. It sees what carries the answer where methods cut, also what single knock-outs cannot see because others "
    "stand in. It cannot tell blocks apart that stand in for each other: they share what they add. It asks what the "
    "language model makes of the encoder's output; what a patch gave to others inside the encoder stays with those. "
    "All tokens have the positions of the full prompt."
)


def show(context: Context, found: list[MethodResult]) -> None:
    """The reading."""
    block = choose("Side of the blocks", BLOCKS, "subset-block", BLOCK_HELP)
    if context.tokens >= context.record.n_patches - block**2:
        st.info("At this budget nearly all patches are kept, so that sets hardly differ: ask with fewer tokens.")
        return
    follow(context, plan(context, block, found), lambda results: _results(context, results, found))


def plan(context: Context, block: int, found: list[MethodResult]) -> StudySpec:
    """Random sets until the estimate is reliable, then every criterion's agreement with it."""
    rankings = rankings_of(context, found)

    def work(model: VisionLanguageModel, study: Study) -> Iterator[Any]:
        import flowcut

        asked = (model, context.picture.open(), context.full.question, context.full.token_ids)
        options: dict[str, Any] = {"reliability": RELIABLE, "most_sets": MOST_SETS, "system": context.system}
        for state in flowcut.sampled_subsets(*asked, context.tokens, block, **options):
            known = "not yet known" if np.isnan(state.reliability) else f"{state.reliability:.2f}"
            study.report(f"Reading random sets: {state.sets:,} so far, reliability {known}", state.done)
            yield state
        yield trusted(rankings, known_coverage(context), state.effect, state.block_of_patch)

    return StudySpec(context.key("subsets", context.tokens, block), work, "Read random sets", TAKES)


def _results(context: Context, results: list[Any], found: list[MethodResult]) -> None:
    states = [one for one in results if isinstance(one, SubsetEffects) and np.isfinite(one.effect).all()]
    if not states:
        return
    last = states[-1]
    facts = context.facts(
        f"sets of {last.sizes[0]} of {len(last.effect)} blocks of {BLOCKS[last.block]}", "positions kept",
        f"seed {last.seed}",
    )  # fmt: skip
    _map(context, last, facts)
    estimates: dict[float, SubsetEffects] = {}
    for one in states:  # between two estimates the last one is repeated
        estimates.setdefault(one.reliability, one)
    plot(
        settling(np.array([one.sets for one in estimates.values()]), np.array(list(estimates)), RELIABLE, facts),
        settling,
    )
    for trust in (one for one in results if isinstance(one, Trust)):
        plot(subset_bars(trust.agreements, f"{facts} · 1,000 bootstrap draws of single blocks, seed 0"), subset_bars)
        show_validity(trust, found)
        what_truth_is(trust)


def _map(context: Context, last: SubsetEffects, facts: str) -> None:
    """What each block adds, over the picture, and how far it is known."""
    verdict = (
        "" if last.reliability >= RELIABLE else ": **noise is a large part of it**, in the map and in the order below"
    )
    st.markdown(
        f"Log-odds of the full answer: **{signed(last.full)}** with all patches, **{signed(last.no_image)}** with "
        f"none. Of {last.sets:,} random sets {last.exact_match:.0%} keep the answer; what single blocks add foresees "
        f"{max(0.0, last.explained):.0%} of how they differ, the rest is what blocks do only together. Reliability "
        f"**{last.reliability:.2f}**{verdict}."
    )
    picture = small(context.image, SIDE)
    of_patch = last.effect[last.block_of_patch].clip(0)
    geometry = on_small(context.record.geometries[0], picture)
    heat = heat_picture(picture, geometry, np.arange(len(of_patch)), of_patch, float(of_patch.max()))
    st.image(heat, alt="What each block adds to the answer's log-odds among random sets", width="content")
    st.caption(f"**How to read this.** {HOW_TO_READ}")
    st.caption(facts)
