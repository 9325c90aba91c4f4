"""The sections of the Compare page; each module is one of them, or what several share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import streamlit as st

from flowcut_lens.app.components import heading as head
from flowcut_lens.app.views.compare import causal, depth, methods, overlap, proxy, rescue, sweep, truth, two_stages
from flowcut_lens.app.views.compare.context import Context


@dataclass(frozen=True)
class Section:
    """One section: its name in the row of choices, the question it answers, and what draws it."""

    label: str
    question: str
    show: Callable[[Context], None]


def _show_methods(context: Context) -> None:
    """Every method by itself, then two of them one after the other."""
    methods.show(context)
    two_stages.show(context)


SECTIONS = {
    "methods": Section(
        "Methods", "What does every criterion keep at this budget, and what is answered?", _show_methods
    ),
    "agreement": Section("Agreement", "Where do criteria and layers contradict each other?", overlap.show),
    "proxy": Section("CLS as a proxy", "Does the CLS row stand for what all tokens attend to?", proxy.show),
    "depth": Section("Flow by depth", "What flows where, how far, and how much does each patch carry?", depth.show),
    "causal": Section("Causal check", "Which criterion ranks patches as taking them away does?", causal.show),
    "truth": Section("Ground truth", "Are the patches of what was asked about kept?", truth.show),
    "rescue": Section("Rescue and drop", "What if other patches had been kept?", rescue.show),
    "sweep": Section("Budget sweep", "How few tokens keep the answer?", sweep.show),
}


def heading() -> None:
    """What the page is for, and the question and answer that are compared."""
    head.heading(
        "Is FlowCut right here, or is it one more heat map?",
        "The last question asked, under every criterion at the same budget, and a check by taking patches away.",
    )


def choose_section() -> Section:
    """The section that is shown; its name is part of the page's address, and stays chosen when the page is left."""
    state, asked = st.session_state, st.query_params.get("section")
    if state.get("section") is None:
        state.section = asked if asked in SECTIONS else state.get("last_section", next(iter(SECTIONS)))
    name = st.segmented_control(
        "Section", list(SECTIONS), format_func=lambda one: SECTIONS[one].label, required=True, key="section",
        label_visibility="collapsed",
    )  # fmt: skip
    assert name is not None
    state.last_section = st.query_params["section"] = name
    section = SECTIONS[state.last_section]
    st.html(f'<h2 class="lens-section">{section.question}</h2>')
    return section
