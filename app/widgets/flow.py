"""Where the answers came from: mask, relay graph and concentration, moved together by one layer control.

The numbers are made by `analysis` on a thread of their own and drawn in the browser by the stage: a question that is
asked meanwhile does not wait for them.
"""

from __future__ import annotations

from concurrent.futures import Future, TimeoutError
from dataclasses import replace
from functools import partial
from typing import Any

import streamlit as st

from analysis.graph import MASS, stage_payload
from app import link, selection, session
from app.comparison import Comparison
from app.runtime import runtime
from app.widgets.answers import escape_markdown
from app.widgets.stage import stage
from app.widgets.why import why
from flowcut.results import Run

PATIENCE = 1.0
"""Seconds that the page waits for figures before it shows that they are on their way."""

LOOK_EVERY = 0.4
STAGE = "stage"
MASSES = (0.5, MASS, 0.95)
PROXY = (
    "This vision encoder has no CLS token. What is called CLS in these figures is a proxy: the mean of all patches' "
    "queries and values. Nothing reads a proxy, so the graph has no outflow."
)
SAME_FOR_ANY_QUESTION = (
    "All of this happens in the vision encoder, which never sees the question: ask something else about the same "
    "picture, and the answers change, but not the attention, the scores or the mask."
)


@st.fragment
def flow() -> None:
    """The stage for the last good answers; a click in it runs this part of the page again, not the rest."""
    shown = session.comparison()
    if shown is None:
        return
    lane, mass, part = _controls(shown)
    selection.tell_all_panels()
    full, pruned = (_part_of(run, part) for run in (shown.full, shown.pruned(lane)))
    compute = partial(stage_payload, full, pruned, shown.picture.image, mass=mass)
    figures = runtime().figures(f"{full.id}-{pruned.id}-{mass}-{part}", compute)
    if full.record is not None and full.record.relay == "proxy":
        st.info(PROXY, icon=":material/info:")
    if _ready(figures):
        why(pruned, _stage(figures))
    else:
        _wait(figures)
    st.caption(SAME_FOR_ANY_QUESTION)


def _part_of(run: Run, part: int) -> Run:
    """The run as one tile of its picture shows it; most models see the picture in one."""
    return run if run.record is None or run.record.batch == 1 else replace(run, record=run.record.image(part))


def _controls(shown: Comparison) -> tuple[str, float, int]:
    """Which of the pruned runs stands beside the whole picture, how much of the flow is drawn, and of which tile."""
    titles = {lane: shown.pruned(lane).title for lane in selection.CUT_LANES}
    with st.container(horizontal=True, gap="medium", vertical_alignment="bottom", key="flow-controls"):
        st.segmented_control(
            "Beside the whole picture", list(titles), format_func=titles.__getitem__, required=True,
            help="The pruned run in all panels, down to the words of the answer",
            **selection.show_in("inside", "lane", titles),
        )  # fmt: skip
        mass = st.segmented_control(
            "Flow to draw", MASSES, format_func="{:.0%}".format, key="mass", default=MASS, required=True,
            help="The strongest edges that together carry this share of each layer's flow; what is really shown is "
            "written at the graph, as there is a limit to the number of edges.",
        )  # fmt: skip
        parts = [] if shown.full.record is None else [geometry.part for geometry in shown.full.record.geometries]
        part = 0
        if len(parts) > 1:
            part = st.selectbox(
                "Tile", range(len(parts)), format_func=parts.__getitem__, key=f"tile-{len(parts)}", width=260
            )
    return selection.chosen().lane, mass or MASS, part


def _ready(figures: Future[dict[str, Any]]) -> bool:
    try:
        figures.exception(timeout=PATIENCE)
    except TimeoutError:
        return False
    return True


def _stage(figures: Future[dict[str, Any]]) -> int | None:
    """Show the stage; the patch that is chosen on it."""
    error = figures.exception()
    if error is None:
        chosen = selection.chosen().patch
        if chosen is not None and STAGE not in st.session_state:
            link.show_patch(chosen)
        patch = stage(figures.result(), key=STAGE, linked_patch=chosen)["patch"]
        selection.choose(patch=patch)
        return patch
    st.warning(f"The figures could not be made: {escape_markdown(str(error))}")
    return None


@st.fragment(run_every=LOOK_EVERY)
def _wait(figures: Future[dict[str, Any]]) -> None:
    """Runs again by itself, alone, until the figures are there."""
    if figures.done():
        st.rerun()
    st.caption("Following the flow through the layers …")
