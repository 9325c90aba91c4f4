"""Ask: what does the model see, and what may be thrown away?"""

from __future__ import annotations

import streamlit as st

from app import link, selection, session
from app.runtime import EMBEDDED, runtime
from app.widgets import answers, controls, flow, progress, words
from app.widgets.source import choose_picture


def page() -> None:
    """The whole page, from top to bottom."""
    session.begin()
    session.collect()
    selection.page_runs()
    with st.sidebar:
        choose_picture()
        controls.question_box()
        controls.model_box()
        controls.method_and_budget()
        controls.more()
        controls.run_button()
    answers.heading()
    progress.problem()
    answers.what_the_model_knows()
    progress.answers_or_progress()
    flow.flow()
    words.words()
    link.write(session.address())
    runtime().warm_up(EMBEDDED)
