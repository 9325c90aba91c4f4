"""A question on its way: what is being done, how far it is, how to stop it; and why it failed."""

from __future__ import annotations

from collections.abc import Callable

import streamlit as st

from flowcut_lens.app.components.formatting import escape_markdown
from flowcut_lens.app.jobs.orders import Job
from flowcut_lens.app.state import session

POLL_SECONDS = 0.5
"""Between two updates of a running job's progress."""


def problem() -> None:
    """Why the last question or upload failed, above the last good answers."""
    if (sentence := session.problem()) is not None:
        st.error(escape_markdown(sentence), icon=":material/error:")


def only_progress() -> None:
    """The bar of a question that is being answered, on pages that show something else than answers."""
    running = session.job()
    if running is not None:
        watch(running)


@st.fragment(run_every=POLL_SECONDS)
def watch(job: Job, below: Callable[[Job], None] | None = None) -> None:
    """Runs again by itself, alone, until the job has ended; then the whole page takes its answers in.

    Args:
        job: the question on its way.
        below: draws what is there of its answers.
    """
    if job.ended.is_set():
        st.rerun()
    bar, stop = st.columns([6, 1], vertical_alignment="center")
    bar.progress(min(1.0, max(0.0, job.fraction or 0.0)), text=escape_markdown(job.phase))
    stop.button("Stop", icon=":material/stop:", on_click=job.cancel, key="stop", width="stretch")
    if below is not None:
        below(job)
