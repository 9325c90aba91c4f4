"""The causal check: take patches away, see what it does to the answer, and ask which criterion ranks them like that."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import streamlit as st

from app.studies import Study
from app.widgets.compare import methods
from app.widgets.compare.running import Plan, follow
from app.widgets.compare.subject import Subject

if TYPE_CHECKING:
    from flowcut.models import VisionLanguageModel

SIDE = 300
BLOCKS = (1, 2, 4)
STEPS = 16
TAKES = "With the embedded model less than a minute and a half for all 576 patches; the page can be left meanwhile."
HOW_TO_READ = (
    "Left: how far the answer's log-prob falls when this patch alone is taken from the language model; full orange is "
    "the largest fall. Right: how much more probable the answer is with this patch alone than with none. Both ask what "
    "the language model needs of the vision encoder's output; what a patch gave to others inside the encoder before is "
    "not undone by it."
)


def show(about: Subject) -> None:
    """The section."""
    if about.full.visual_tokens != about.record.n_patches or about.record.batch != 1:
        st.info("Patches are taken away one by one where each is one visual token of the language model.")
        return
    found = methods.results(about)
    if found is None:
        return
    block = st.segmented_control(
        "Patches taken away together", BLOCKS, format_func=lambda side: f"{side} × {side}" if side > 1 else "one by one",
        default=1, required=True, key="knock-out-block",
        help="Blocks are quicker, and find what neighbours hold between them",
    )  # fmt: skip
    follow(about, plan(about, block or 1, found), lambda results: _results(about, results))


def plan(about: Subject, block: int, found: list[Any]) -> Plan:
    """Knock-out of every block, then deletion and insertion in the order of every criterion."""
    rankings = {one.cut.title: one.run.ranking for one in found if one.run is not None and one.run.ranking is not None}

    def work(model: VisionLanguageModel, study: Study) -> Iterator[Any]:
        import flowcut

        asked = (model, about.image, about.full.question, about.answer_ids)
        for state in flowcut.knock_out(*asked, block=block):
            study.report("Taking patches away", 0.7 * state.done)
            yield state
        curves = flowcut.deletion_insertion(*asked, rankings, steps=STEPS)
        for done, curve in enumerate(curves, 1):
            study.report("Removing and adding patches in each criterion's order", 0.7 + 0.3 * done / len(rankings))
            yield curve

    return Plan(about.key("causal", about.tokens, block), work, "Take patches away", TAKES)


def _results(about: Subject, results: list[Any]) -> None:
    knocked = [result for result in results if hasattr(result, "without")]
    curves = [result for result in results if hasattr(result, "deletion")]
    if knocked:
        _maps(about, knocked[-1])
        found = methods.results(about)
        if found is not None and knocked[-1].done == 1.0:
            _trust(about, knocked[-1], found)
    if curves:
        _curves(about, curves)
