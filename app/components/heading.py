"""The head of a page: what the page is for, the question shown, and what the model cannot know."""

from __future__ import annotations

from html import escape

import streamlit as st

from flowcut.errors import FlowCutError
from flowcut_lens.app.components.formatting import escape_markdown
from flowcut_lens.app.components.offer import offer
from flowcut_lens.app.jobs.models import EMBEDDED
from flowcut_lens.app.media.comparison import Comparison
from flowcut_lens.app.media.truth import right_answer
from flowcut_lens.app.media.videos import check_frames
from flowcut_lens.app.sidebar.controls import FOR_VIDEOS
from flowcut_lens.app.state import session


def heading(
    title: str = "What does the model see, and what may be pruned?",
    below: str = "One question, three answers: from all visual tokens, from those a method kept, and from random ones.",
) -> None:
    """What the page is for, and the question that what is shown below belongs to."""
    running, shown = session.job(), session.comparison()
    st.html(f'<div class="lens-head"><h1>{escape(title)}</h1><p>{escape(below)}</p></div>')
    if running is not None:
        _question(running.order.question, "Being answered now")
    elif shown is not None:
        _question(shown.full.question, _facts(shown))


def _question(text: str, below: str) -> None:
    asked = f'<p class="lens-question" dir="auto" data-testid="question">{escape(text)}</p>'
    st.html(f'{asked}<p class="lens-facts">{escape(below)}</p>')


def _facts(shown: Comparison) -> str:
    run = shown.full
    facts = [f"Model “{run.model_id}”, {run.dtype} on {run.device}", shown.picture.name]
    if shown.picture.frames:
        facts.append(f"{len(shown.picture.frames)} frames")
    if shown.picture.seed is not None:
        right = right_answer(shown.picture.seed, run.question)
        facts.append("the scene's truth does not cover this question" if right is None else f"in truth: {right}")
    if shown.stored:
        facts.append("stored answers, no model was loaded for them")
    return " · ".join(facts)


def what_the_model_knows() -> None:
    """A word of warning where the embedded model is to look at something it was never shown."""
    if session.picture().video is not None:
        _whether_it_takes_videos()
    elif st.session_state.model == EMBEDDED and not session.picture().could_be_drawn:
        offer()


def _whether_it_takes_videos() -> None:
    """Said as soon as it is known; pressing Run would say the same."""
    try:
        check_frames(st.session_state.model, len(session.picture().frames))
    except FlowCutError as error:
        if session.problem() != str(error):
            names = ", ".join(f"`{name}`" for name in FOR_VIDEOS)
            st.info(f"{escape_markdown(str(error))} Published ones: {names}.", icon=":material/info:")
