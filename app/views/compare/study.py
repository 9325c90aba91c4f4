"""A study on the page: a button to begin it, its progress and a stop, and what it has found so far."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import streamlit as st

from flowcut_lens.app.components.formatting import escape_markdown
from flowcut_lens.app.jobs.models import EMBEDDED
from flowcut_lens.app.jobs.runtime import runtime
from flowcut_lens.app.jobs.studies import Study, Work
from flowcut_lens.app.jobs.visitors import visitor
from flowcut_lens.app.views.compare.context import Context

POLL_SECONDS = 0.7
"""Between two updates of a running study."""
DRAW_EVERY = 4.0
"""Seconds between two drawings of what a running study has found: drawing takes time from the study itself."""


@dataclass(frozen=True)
class StudySpec:
    """A study that can be begun."""

    key: str
    """Hash of its content."""
    work: Work
    begin: str
    """What the button says."""
    takes: str
    """What to expect, one sentence."""
    by_itself: bool = False
    """Begun without a click where the model is the embedded one, which needs seconds."""


def follow(about: Context, plan: StudySpec, show: Callable[[list[Any]], None]) -> None:
    """The study: a button while it has not begun, then its results so far, with progress while it runs."""
    studies = runtime().studies
    study = studies.find(plan.key)
    if study is None and plan.by_itself and about.model == EMBEDDED:
        study = studies.start(plan.key, about.model, plan.work, visitor())
    if study is not None:
        study.watchers.add(visitor())
    if study is None:
        _offer(about, plan, plan.begin)
        st.caption(plan.takes)
    elif study.ended.is_set():
        _ended(about, plan, study)
        if study.results:
            show(study.results)
    else:
        _watch(plan.key, study, time.monotonic() + DRAW_EVERY, len(study.results))
        if study.results:
            show(list(study.results))


def begin(about: Context, plan: StudySpec) -> None:
    """Begin a study, unless it runs or is complete."""
    runtime().studies.start(plan.key, about.model, plan.work, visitor())


def _offer(about: Context, plan: StudySpec, label: str) -> None:
    st.button(label, icon=":material/play_arrow:", key=f"begin-{plan.key}", on_click=begin, args=(about, plan))


def _ended(about: Context, plan: StudySpec, study: Study) -> None:
    if study.complete:
        return
    if study.error is not None:
        st.error(escape_markdown(study.error), icon=":material/error:")
    else:
        why = ", as everyone who watched had left" if study.abandoned else ""
        st.info(f"Stopped at {study.fraction:.0%}{why}. What was found until then stays below.", icon=":material/info:")
    _offer(about, plan, "Begin again")


@st.fragment(run_every=POLL_SECONDS)
def _watch(key: str, study: Study, draw_at: float, drawn: int) -> None:
    """Runs again by itself, alone; the whole page runs when the study has ended, and now and then for its results."""
    if study.ended.is_set() or (time.monotonic() > draw_at and len(study.results) > drawn):
        st.rerun()
    bar, stop = st.columns([6, 1], vertical_alignment="center")
    bar.progress(min(1.0, study.fraction), text=escape_markdown(study.phase))
    stop.button("Stop", icon=":material/stop:", on_click=study.stop.set, key=f"stop-{key}", width="stretch")
