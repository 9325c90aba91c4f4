"""Two cuts one after the other: a method before the language model, and one inside it, each with its budget."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import streamlit as st

from flowcut.criteria import METHODS
from flowcut.criteria.stages import DECODER
from flowcut.cut import Cut, CutConfig
from flowcut_lens.app.jobs.studies import Study
from flowcut_lens.app.views.compare import methods
from flowcut_lens.app.views.compare.context import Context
from flowcut_lens.app.views.compare.study import StudySpec, follow

if TYPE_CHECKING:
    from flowcut.models.loading import VisionLanguageModel

USUAL = ("visionzip", "fastv")


def show(context: Context) -> None:
    """Which two, at which budgets; then the study, and what it found."""
    st.html('<h3 class="lens-panel">Two cuts, one after the other</h3>')
    if context.tokens < 2:
        st.caption("The budget on the left is a single token: choose 2 or more, so that a second cut has some to take.")
        return
    cut = _choice(context.tokens)
    follow(context, plan(context, cut), lambda results: _found(context, cut, results))


def plan(context: Context, cut: CutConfig) -> StudySpec:
    """The study of one such cut."""

    def work(model: VisionLanguageModel, study: Study) -> Iterator[Any]:
        import flowcut

        yield from flowcut.compare_methods(model, context.picture.open(), context.full.question, context.full, [cut])

    key = context.key("two stages", cut.as_dict())
    return StudySpec(key, work, f"Ask under {cut.title}", "One answer; with the embedded model a second or two.")


def _choice(tokens: int) -> CutConfig:
    """The two methods and budgets on screen."""
    before = [name for name, one in METHODS.items() if one.cuts_at is not DECODER and _is_choice(name)]
    inside = [name for name, one in METHODS.items() if one.cuts_at is DECODER]
    boxes = st.columns([3, 2, 3, 2], vertical_alignment="bottom")
    first = boxes[0].selectbox(
        "First, before the language model", before, before.index(USUAL[0]), format_func=_label, key="first_of_two"
    )
    many = boxes[1].number_input("keeps", 2, tokens, tokens, key=f"tokens_of_first-{tokens}")
    second = boxes[2].selectbox(
        "then, inside it", inside, inside.index(USUAL[1]), format_func=_label, key="second_of_two"
    )
    few = boxes[3].number_input("keeps of these", 1, many - 1, many // 2, key=f"tokens_of_second-{many}")
    return Cut(first, many, then=Cut(second, few))


def _is_choice(name: str) -> bool:
    return not METHODS[name].takes_patches and not METHODS[name].of_videos


def _label(name: str) -> str:
    return METHODS[name].label


def _found(context: Context, cut: CutConfig, results: list[Any]) -> None:
    cards = "".join(methods.card(context, result, context.full.logprob) for result in results)
    st.html(f'<div class="lens-smalls">{cards}</div>')
    left = f"{cut.tokens}, then {cut.tokens_left} of {context.full.visual_tokens} visual tokens"
    st.caption(context.facts(left, "the mask shows what the last layer reads", "greedy decoding"))
