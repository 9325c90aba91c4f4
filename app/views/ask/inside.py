"""Below the answers: what happened inside, first through the vision encoder, then for each word of the answer.

Which pruned run stands beside the full run concerns all of it and nothing else on the page: this part runs alone.
"""

from __future__ import annotations

import streamlit as st

from flowcut_lens.analysis.relay import MASS
from flowcut_lens.app.media.comparison import Comparison
from flowcut_lens.app.state import selection, session, url
from flowcut_lens.app.views.ask.flow import flow, view_box
from flowcut_lens.app.views.ask.token_attention import words
from flowcut_lens.app.views.ask.unread import is_unread, unread_encoder

MASSES = (0.5, MASS, 0.95)
"""Shares of each layer's flow that can be drawn."""


@st.fragment
def inside() -> None:
    """The panels for the last good answers."""
    shown = session.comparison()
    if shown is not None and is_unread(shown):
        _beside(shown)
        unread_encoder(shown)
        words(shown)
    elif shown is not None:
        mass, view = _controls(shown)
        flow(shown, mass, view)
        words(shown)
    url.write(session.address())


def _beside(shown: Comparison) -> None:
    """Which pruned run stands beside the full run."""
    titles = {arm: shown.pruned(arm).title for arm in selection.PRUNED_ARMS}
    st.segmented_control(
        f"Beside the full {shown.picture.kind}", list(titles), format_func=titles.__getitem__, required=True,
        help="The pruned run in all panels, down to the words of the answer",
        **selection.show_in("inside", "arm", titles),
    )  # fmt: skip


def _controls(shown: Comparison) -> tuple[float, int | None]:
    """Which pruned run stands beside the full run; how much of the flow is drawn, and of which tile or frame."""
    with st.container(horizontal=True, gap="medium", vertical_alignment="bottom"):
        _beside(shown)
        mass = st.segmented_control(
            "Flow to draw", MASSES, format_func="{:.0%}".format, key="mass", default=MASS, required=True,
            help="The strongest edges that together carry this share of each layer's flow; what is really shown is "
            "written at the graph, as there is a limit to the number of edges.",
        )  # fmt: skip
        view = view_box(shown.full)
    return mass or MASS, view
