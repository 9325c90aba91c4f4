"""A question on its way: what is being done, how far it is, how to stop it; and why it failed."""

from __future__ import annotations

import streamlit as st

from flowcut_lens.app.components import answers
from flowcut_lens.app.jobs.orders import Job
from flowcut_lens.app.state import session

LOOK_EVERY = 0.5
"""Seconds between two looks at a running job."""


def problem() -> None:
    """What went wrong last, above the last good answers."""
    if (sentence := session.problem()) is not None:
        st.error(answers.escape_markdown(sentence), icon=":material/error:")


def answers_or_progress() -> None:
    """The answers growing, or the last good ones."""
    running, shown = session.job(), session.comparison()
    if running is not None:
        _watch(running)
    elif shown is not None:
        answers.answers(shown)


def only_progress() -> None:
    """The bar of a question that is being answered, on pages that show something else than answers."""
    running = session.job()
    if running is not None:
        _watch(running, False)


@st.fragment(run_every=LOOK_EVERY)
def _watch(job: Job, with_answers: bool = True) -> None:
    """Runs again by itself, alone, until the job has ended; then the whole page takes its answers in."""
    if job.ended.is_set():
        st.rerun()
    bar, stop = st.columns([6, 1], vertical_alignment="center")
    bar.progress(min(1.0, max(0.0, job.fraction or 0.0)), text=answers.escape_markdown(job.phase))
    stop.button("Stop", icon=":material/stop:", on_click=job.cancel, key="stop", width="stretch")
    if with_answers:
        answers.growing_answers(job)
