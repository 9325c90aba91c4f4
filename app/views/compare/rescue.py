"""Rescue and drop: toggle patches of the mask, ask again, see what changes."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from math import isnan
from typing import TYPE_CHECKING, Any

import numpy as np
import streamlit as st

from flowcut.cut import Cut
from flowcut_lens.analysis.rescue import after_edits, equal_count_swap
from flowcut_lens.app.components.answers import marked_answer
from flowcut_lens.app.components.choice import choose
from flowcut_lens.app.components.formatting import signed
from flowcut_lens.app.components.mask_thumbnails import on_small, small
from flowcut_lens.app.components.painter import painter
from flowcut_lens.app.components.study import StudySpec, begin, follow
from flowcut_lens.app.components.table import table
from flowcut_lens.app.components.thumbnails import data_url
from flowcut_lens.app.jobs.runtime import runtime
from flowcut_lens.app.jobs.studies import Study
from flowcut_lens.app.views.compare import methods
from flowcut_lens.app.views.compare.context import Subject

if TYPE_CHECKING:
    from flowcut.models.loading import VisionLanguageModel
    from flowcut.records.studies import MethodResult

SIDE = 560
LASSO = {"rescue": "Lasso rescues", "drop": "Lasso drops"}
COLUMNS = ("mask", "answer", "change of log-prob, nats")
HOW_TO_READ = (
    "“+” marks patches you rescued, “−” those you dropped. Your mask is cut at the feature layer of a vision encoder "
    "that ran on all patches; FlowCut cuts on the way, so its patches also lost their neighbours: compare your edits "
    "with “the same mask, cut at the end”. Log-prob: of the full answer's tokens, in nats."
)


def show(about: Subject) -> None:
    """The section."""
    record = about.pruned.record
    base = about.pruned.final_patch_ids
    if base is None or record is None or len(record.geometries) != 1:
        st.info("Patches can be toggled where a picture is one grid of patches, one visual token each.")
        return
    _section(about, base)


@st.fragment
def _section(about: Subject, base: np.ndarray) -> None:
    edits = _edits(about)
    kept = after_edits(base, edits)
    left, right = st.columns([5, 6], gap="large")
    with left:
        _mask(about, base, kept)
    with right:
        _tools(about, base, kept, edits)
        _try(about, kept)
        _tries(about, base)
    st.caption(f"**How to read this.** {HOW_TO_READ}")
    st.caption(about.facts(about.pruned.title, f"{len(kept)} patches kept now"))


def _edits(about: Subject) -> list[list[int]]:
    """This visitor's edits of this mask, oldest first."""
    edits: list[list[int]] = st.session_state.setdefault("mask_edits", {}).setdefault(about.pruned.id, [])
    return edits


def _tried(about: Subject) -> list[tuple[int, ...]]:
    """The masks that were asked about, oldest first."""
    tried: list[tuple[int, ...]] = st.session_state.setdefault("masks_tried", {}).setdefault(about.pruned.id, [])
    return tried


def _mask(about: Subject, base: np.ndarray, kept: np.ndarray) -> None:
    assert about.pruned.record is not None
    picture = small(about.image, SIDE)
    geometry = on_small(about.pruned.record.geometries[0], picture)
    lasso = choose("Lasso", LASSO, "lasso", shown=False)
    painter(data_url(picture, SIDE), geometry, base, kept, lasso, about.pruned.id, "painter", _edits(about).append)


def _tools(about: Subject, base: np.ndarray, kept: np.ndarray, edits: list[list[int]]) -> None:
    rescued, dropped = np.setdiff1d(kept, base), np.setdiff1d(base, kept)
    st.markdown(f"**{len(kept)} kept**: {len(rescued)} rescued, {len(dropped)} dropped; the budget is {len(base)}.")
    with st.container(horizontal=True, gap="small"):
        st.button("Undo", icon=":material/undo:", on_click=_undo, args=(edits,), disabled=not edits, key="undo-edit")
        st.button("Start over", on_click=edits.clear, disabled=not edits, key="clear-edits")
        ranking = about.pruned.ranking
        swap = np.array([], dtype=np.int64) if ranking is None else equal_count_swap(base, kept, ranking)
        if len(swap):
            verb = "Drop the" if len(kept) > len(base) else "Rescue the"
            which = "lowest ranked kept" if len(kept) > len(base) else "highest ranked cut"
            st.button(
                f"{verb} {len(swap)} {which}", icon=":material/swap_horiz:", on_click=edits.append, key="equal-swap",
                args=(swap.tolist(),), help="So that the budget stays equal; patches you edited are left alone",
            )  # fmt: skip


def _undo(edits: list[list[int]]) -> None:
    if edits:
        edits.pop()


def plan(about: Subject, kept: tuple[int, ...]) -> StudySpec:
    """The question once more, under a mask of one's own."""

    def work(model: VisionLanguageModel, study: Study) -> Iterator[Any]:
        import flowcut

        cut = Cut("chosen", tokens=len(kept), patches=kept)
        yield from flowcut.compare_methods(model, about.image, about.full.question, about.full, [cut])

    return StudySpec(about.key("chosen", list(kept)), work, "Ask again with this mask", "")


def _try(about: Subject, kept: np.ndarray) -> None:
    chosen = tuple(kept.tolist())
    again = plan(about, chosen)
    asked, study = chosen in _tried(about), runtime().studies.find(again.key)
    if not asked or study is None or not study.ended.is_set():  # what another visitor asked is known, but not shown
        disabled = len(chosen) == 0
        st.button(
            again.begin, type="primary", icon=":material/play_arrow:", key="ask-mask", disabled=disabled,
            on_click=_ask, args=(about, chosen), help="Keep at least one patch" if disabled else None,
        )  # fmt: skip
    if asked and study is not None:
        follow(about, again, lambda results: None)


def _ask(about: Subject, kept: tuple[int, ...]) -> None:
    begin(about, plan(about, kept))
    if kept not in _tried(about):
        _tried(about).append(kept)


def _tries(about: Subject, base: np.ndarray) -> None:
    """What was answered under each mask that was tried, the newest first."""
    full = about.full.logprob
    rows = [_row("All tokens", escape(about.full.answer), 0.0, True), _pruned_row(about, full)]
    for kept in reversed(_tried(about)):
        study = runtime().studies.find(plan(about, kept).key)
        if study is not None and study.results:
            rows.append(_result_row(about, _name(base, kept), study.latest, full))
    table("tries", COLUMNS, rows)


def _pruned_row(about: Subject, full: float) -> str:
    """The cut that the edits began with."""
    same = about.pruned.token_ids == about.full.token_ids
    total = about.pruned.logprob if same else _compared(about)
    return _row(about.pruned.title, marked_answer(about.full, about.pruned), total - full, same)


def _compared(about: Subject) -> float:
    """Log-prob of the full answer under the cut on screen; NaN until the methods were compared."""
    study = runtime().studies.find(methods.plan(about).key)
    found = methods.answered(study.results if study else [])
    return next((methods.total(one) for one in found if one.cut == about.cut), float("nan"))


def _name(base: np.ndarray, kept: tuple[int, ...]) -> str:
    rescued, dropped = np.setdiff1d(kept, base), np.setdiff1d(base, kept)
    if not len(rescued) and not len(dropped):
        return "the same mask, cut at the end"
    return f"{len(kept)} patches: +{len(rescued)} −{len(dropped)}"


def _result_row(about: Subject, name: str, result: MethodResult, full: float) -> str:
    if result.run is None or result.logprobs is None:
        return f'<tr><th>{escape(name)}</th><td colspan="2">{escape(result.error or "no answer")}</td></tr>'
    answer = marked_answer(about.full, result.run)
    return _row(name, answer, methods.total(result) - full, result.exact_match)


def _row(name: str, answer: str, change: float, same: bool) -> str:
    """A line of the table; the answer is HTML already."""
    mark = '<b class="right">✓</b>' if same else '<b class="wrong">✗</b>'
    number = "<td>once the methods were compared</td>" if isnan(change) else f"<td>{signed(change, plus=True)}</td>"
    return f'<tr><th>{escape(name)}</th><td dir="auto">{mark} {answer}</td>{number}</tr>'
