"""Where the answers came from: mask, relay graph and concentration, moved together by one layer control.

The numbers are made by `analysis` on a thread of their own and drawn in the browser by the stage: a question that is
asked meanwhile does not wait for them.
"""

from __future__ import annotations

import json
from concurrent.futures import Future, TimeoutError
from dataclasses import replace
from functools import partial

import streamlit as st

from flowcut.records.run import Run
from flowcut_lens.analysis.stage import stage_payload
from flowcut_lens.analysis.views import place_of
from flowcut_lens.app.components.formatting import escape_markdown
from flowcut_lens.app.components.stage import stage
from flowcut_lens.app.jobs.runtime import runtime
from flowcut_lens.app.media.comparison import Comparison
from flowcut_lens.app.state import selection, url
from flowcut_lens.app.views.ask.patch_trajectory import why

PATIENCE = 1.0
"""Seconds that the page waits for figures before it shows that they are on their way."""

POLL_SECONDS = 0.4
STAGE = "stage"
MEAN = -1
"""The choice of the mean of all tiles or frames."""
PROXY = (
    "This vision encoder has no CLS token. What is called CLS in these figures is a proxy: the mean of all patches' "
    "queries and values. Nothing reads a proxy, so the graph has no outflow."
)
SAME_FOR_ANY_QUESTION = (
    "All of this happens in the vision encoder, which never sees the question: ask something else about the same "
    "{kind}, and the answers change, but not the attention, the scores or the mask."
)


@st.fragment
def flow(shown: Comparison, mass: float, view: int | None) -> None:
    """The stage of three answers; a click in it runs this part of the page again, not the rest.

    Args:
        shown: the answers.
        mass: the share of each layer's flow that is drawn.
        view: the tile or frame that graph and curves are of, as from `view_box`.
    """
    if _followed(shown.full, view):
        st.rerun()
    arm = selection.chosen().arm
    full, pruned, figures = shown.full, shown.pruned(arm), _figures(shown, arm, mass, view)
    if full.record is not None and full.record.relay == "proxy":
        st.info(PROXY, icon=":material/info:")
    if _ready(figures):
        why(*_own_row(pruned, _stage(figures, pruned)))
        for other in set(selection.PRUNED_ARMS) - {arm}:  # so that they are there when they are asked for
            _figures(shown, other, mass, view)
    else:
        _wait(figures)
    st.caption(SAME_FOR_ANY_QUESTION.format(kind=shown.picture.kind))


def _figures(shown: Comparison, arm: str, mass: float, view: int | None) -> Future[bytes]:
    """What the stage draws for one of the pruned runs, being made or there already."""
    full, pruned = shown.full, shown.pruned(arm)

    def compute() -> bytes:
        picture = shown.picture.frames or shown.picture.image
        return json.dumps(stage_payload(full, pruned, picture, mass=mass, view=view)).encode()

    return runtime().figures(f"{full.id}-{pruned.id}-{mass}-{view}", compute)


def _own_row(run: Run, patch: int | None) -> tuple[Run, int | None, int]:
    """The run as the tile or frame of a patch shows it, the patch on its own grid, and its first patch's number."""
    if run.record is None or run.record.batch == 1:
        return run, patch, 0
    try:
        row, own = (0, None) if patch is None else place_of(run.record, patch)
    except IndexError:  # chosen on a picture of more tiles
        row, own = 0, None
    return replace(run, record=run.record.image(row)), own, 0 if patch is None or own is None else patch - own


def view_box(run: Run) -> int | None:
    """Which tile or frame graph and curves are of; None: the mean of all. Most pictures have one, and no box."""
    views = [] if run.record is None else [geometry.view for geometry in run.record.geometries]
    if len(views) < 2:
        return 0
    noun = "Frame" if views[0].startswith("frame") else "Tile"
    chosen: int = st.selectbox(
        noun, [*range(len(views)), MEAN], key=_view_key(len(views)), width=260,
        format_func=lambda view: f"mean of all {len(views)}" if view == MEAN else views[view],
        help="Of which the graph and the curves are; the mask shows all. A click on another one's patch chooses it.",
    )  # fmt: skip
    return None if chosen == MEAN else chosen


def _followed(run: Run, view: int | None) -> bool:
    """Whether a click on another tile's patch has chosen that tile since the box was drawn."""
    views = 0 if run.record is None else run.record.batch
    chosen = st.session_state.get(_view_key(views), 0)
    return views > 1 and chosen != (MEAN if view is None else view)


def _view_key(views: int) -> str:
    return f"tile-{views}"


def _ready(figures: Future[bytes]) -> bool:
    try:
        figures.exception(timeout=PATIENCE)
    except TimeoutError:
        return False
    return True


def _stage(figures: Future[bytes], run: Run) -> int | None:
    """Show the stage; the patch that is chosen on it, numbered through all tiles or frames."""
    error = figures.exception()
    if error is None:
        chosen = selection.chosen().patch
        if chosen is not None and STAGE not in st.session_state:
            url.show_patch(chosen)
        follow = partial(_follow, run)
        patch = stage(figures.result(), key=STAGE, linked_patch=chosen, on_choice=follow)["patch"]
        selection.choose(patch=patch)
        return patch
    st.warning(f"The figures could not be made: {escape_markdown(str(error))}")
    return None


def _follow(run: Run, patch: int | None) -> None:
    """The graph moves to the tile or frame of a patch that was chosen, unless it shows the mean of all."""
    if run.record is None or run.record.batch == 1 or patch is None:
        return
    key = _view_key(run.record.batch)
    if st.session_state.get(key) != MEAN:
        st.session_state[key] = place_of(run.record, patch)[0]


@st.fragment(run_every=POLL_SECONDS)
def _wait(figures: Future[bytes]) -> None:
    """Runs again by itself, alone, until the figures are there."""
    if figures.done():
        st.rerun()
    st.caption("Following the flow through the layers …")
