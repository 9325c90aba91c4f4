"""What the Compare page compares: the last question with its full answer, and the budget it was asked at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import streamlit as st
from PIL.Image import Image

from flowcut.cut import CutConfig
from flowcut.records.run import Run
from flowcut.records.vision import FlowRecord
from flowcut_lens.app.jobs.studies import study_key
from flowcut_lens.app.media.chosen import ChosenPicture
from flowcut_lens.app.state import session

SEEDS = 5
"""Draws of the random control wherever one draw would be an anecdote."""

NO_VIDEOS = (
    "The last question was about a video, and the studies on this page are of pictures: ask about a picture on the "
    "left, or go back to Ask, which shows the video's masks, graph and curves frame by frame."
)


NOTHING_TO_COMPARE = (
    "This page compares what criteria see of the encoder: ask on the Ask page, or compare answers with flowcut compare."
)


@dataclass(frozen=True, eq=False)
class Context:
    """One answered question."""

    model: str
    """Name to load the model by."""
    picture: ChosenPicture
    full: Run
    """The answer with all visual tokens: what every criterion is measured against."""
    cut: CutConfig
    """The cut that was asked for last: its budget, and its variant where it has one."""
    pruned: Run
    """The answer under it."""

    @property
    def tokens(self) -> int:
        """T, visual tokens that every criterion may keep."""
        return self.cut.tokens

    @property
    def image(self) -> Image:
        """The picture, RGB."""
        return self.picture.image

    @property
    def system(self) -> str | None:
        """The system prompt it was asked with."""
        return self.full.generation.get("system")

    @property
    def record(self) -> FlowRecord:
        """The record of the run with all tokens."""
        assert self.full.record is not None  # the page always records
        return self.full.record

    def key(self, name: str, *settings: Any) -> str:
        """Hash of all that a study of this question depends on."""
        return study_key(name, self.full.id, *settings)

    def facts(self, *more: str) -> str:
        """The line under a figure: model, and what else the figure is about."""
        return " · ".join((f"model {self.full.model_id}", *more, self.full.dtype))


def current_context() -> Context | None:
    """The last question that was answered, or None with a word on why nothing can be compared yet."""
    shown = session.comparison()
    if shown is not None and shown.picture.video is not None:
        st.info(NO_VIDEOS, icon=":material/info:")
        return None
    if shown is None or shown.cut.cut is None:
        st.caption("Ask a question on the left first: what it was answered is compared here.")
        return None
    if not shown.full.tokens or shown.full.record is None:
        st.caption("The full answer is empty: ask another question, so that there is something to compare.")
        return None
    if shown.full.record.unread is not None:
        st.info(f"{shown.full.record.unread} {NOTHING_TO_COMPARE}", icon=":material/info:")
        return None
    return Context(shown.full.model_id, shown.picture, shown.full, shown.cut.cut, shown.cut)
