"""The sections of the Compare page; each module is one of them, or what several share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import streamlit as st

from app.widgets import answers
from app.widgets.compare import methods, rescue, sweep
from app.widgets.compare.subject import Subject


@dataclass(frozen=True)
class Section:
    """One section: its name in the row of choices, the question it answers, and what draws it."""

    label: str
    question: str
    show: Callable[[Subject], None]


SECTIONS = {
    "methods": Section("Methods", "What does every criterion keep at this budget, and what is answered?", methods.show),
    "rescue": Section("Rescue and drop", "What if other patches had been kept?", rescue.show),
    "sweep": Section("Budget sweep", "How few tokens keep the answer?", sweep.show),
}


def heading() -> None:
    """What the page is for, and the question and answer that are compared."""
    answers.heading(
        "Is FlowCut right here, or is it one more heat map?",
        "The last question asked, under every criterion at the same budget, and a check by taking patches away.",
    )


def choose_section() -> Section:
    """The section that is shown; its name is part of the page's address."""
    name = st.segmented_control(
        "Section", list(SECTIONS), format_func=lambda one: SECTIONS[one].label, default="methods", required=True,
        key="section", bind="query-params", label_visibility="collapsed",
    )  # fmt: skip
    section = SECTIONS[name or "methods"]
    st.subheader(section.question, anchor=False)
    return section
