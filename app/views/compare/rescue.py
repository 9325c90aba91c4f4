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
from flowcut_lens.app.components.choice import choose
from flowcut_lens.app.components.differences import marked_answer
from flowcut_lens.app.components.formatting import signed
from flowcut_lens.app.components.painter import painter
from flowcut_lens.app.components.table import table
from flowcut_lens.app.components.thumbnails import data_url
from flowcut_lens.app.jobs.runtime import runtime
from flowcut_lens.app.jobs.studies import Study
from flowcut_lens.app.views.compare import methods
from flowcut_lens.app.views.compare.context import Context
from flowcut_lens.app.views.compare.mask_thumbnails import on_small, small
from flowcut_lens.app.views.compare.study import StudySpec, begin, follow

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


def show(context: Context) -> None:
    """The section."""
    record = context.pruned.record
    base = context.pruned.final_patch_ids
    if base is None or record is None or len(record.geometries) != 1:
        st.info("Patches can be toggled where a picture is one grid of patches, one visual token each.")
        return
    _section(context, base)


@st.fragment
def _section(context: Context, base: np.ndarray) -> None:
    edits = _edits(context)
    kept = after_edits(base, edits)
    left, right = st.columns([5, 6], gap="large")
    with left:
        _mask(context, base, kept)
    with right:
        _tools(context, base, kept, edits)
        _try(context, kept)
        _tries(context, base)
    st.caption(f"**How to read this.** {HOW_TO_READ}")
    st.caption(context.facts(context.pruned.title, f"{len(kept)} patches kept now"))


def _edits(context: Context) -> list[list[int]]:
    """This visitor's edits of this mask, oldest first."""
    edits: list[list[int]] = st.session_state.setdefault("mask_edits", {}).setdefault(context.pruned.id, [])
    return edits


def _tried(context: Context) -> list[tuple[int, ...]]:
    """The masks that were asked about, oldest first."""
    tried: list[tuple[int, ...]] = st.session_state.setdefault("masks_tried", {}).setdefault(context.pruned.id, [])
    return tried


def _mask(context: Context, base: np.ndarray, kept: np.ndarray) -> None:
    assert context.pruned.record is not None
    picture = small(context.image, SIDE)
    geometry = on_small(context.pruned.record.geometries[0], picture)
    lasso = choose("Lasso", LASSO, "lasso", shown=False)
    painter(data_url(picture, SIDE), geometry, base, kept, lasso, context.pruned.id, "painter", _edits(context).append)


def _tools(context: Context, base: np.ndarray, kept: np.ndarray, edits: list[list[int]]) -> None:
    rescued, dropped = np.setdiff1d(kept, base), np.setdiff1d(base, kept)
    st.markdown(f"**{len(kept)} kept**: {len(rescued)} rescued, {len(dropped)} dropped; the budget is {len(base)}.")
    with st.container(horizontal=True, gap="small"):
        st.button("Undo", icon=":material/undo:", on_click=_undo, args=(edits,), disabled=not edits, key="undo-edit")
        st.button("Start over", on_click=edits.clear, disabled=not edits, key="clear-edits")
        ranking = context.pruned.ranking
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


def plan(context: Context, kept: tuple[int, ...]) -> StudySpec:
    """The question once more, under a mask of one's own."""

    def work(model: VisionLanguageModel, study: Study) -> Iterator[Any]:
        import flowcut

        cut = Cut("chosen", tokens=len(kept), patches=kept)
        yield from flowcut.compare_methods(model, context.picture.open(), context.full.question, context.full, [cut])

    return StudySpec(context.key("chosen", list(kept)), work, "Ask again with this mask", "")


def _try(context: Context, kept: np.ndarray) -> None:
    chosen = tuple(kept.tolist())
    again = plan(context, chosen)
    asked, study = chosen in _tried(context), runtime().studies.find(again.key)
    if not asked or study is None or not study.ended.is_set():  # what another visitor asked is known, but not shown
        disabled = len(chosen) == 0
        st.button(
            again.begin, type="primary", icon=":material/play_arrow:", key="ask-mask", disabled=disabled,
            on_click=_ask, args=(context, chosen), help="Keep at least one patch" if disabled else None,
        )  # fmt: skip
    if asked and study is not None:
        follow(context, again, lambda results: None)


def _ask(context: Context, kept: tuple[int, ...]) -> None:
    begin(context, plan(context, kept))
    if kept not in _tried(context):
        _tried(context).append(kept)


def _tries(context: Context, base: np.ndarray) -> None:
    """What was answered under each mask that was tried, the newest first."""
    full = context.full.logprob
    rows = [_row("All tokens", escape(context.full.answer), 0.0, True), _pruned_row(context, full)]
    for kept in reversed(_tried(context)):
        study = runtime().studies.find(plan(context, kept).key)
        if study is not None and study.results:
            rows.append(_result_row(context, _name(base, kept), study.latest, full))
    table("tries", COLUMNS, rows)


def _pruned_row(context: Context, full: float) -> str:
    """The cut that the edits began with."""
    same = context.pruned.token_ids == context.full.token_ids
    total = context.pruned.logprob if same else _compared(context)
    return _row(context.pruned.title, marked_answer(context.full, context.pruned), total - full, same)


def _compared(context: Context) -> float:
    """Log-prob of the full answer under the cut on screen; NaN until the methods were compared."""
    study = runtime().studies.find(methods.plan(context).key)
    found = methods.answered(study.results if study else [])
    return next((methods.total(one) for one in found if one.cut == context.cut), float("nan"))


def _name(base: np.ndarray, kept: tuple[int, ...]) -> str:
    rescued, dropped = np.setdiff1d(kept, base), np.setdiff1d(base, kept)
    if not len(rescued) and not len(dropped):
        return "the same mask, cut at the end"
    return f"{len(kept)} patches: +{len(rescued)} −{len(dropped)}"


def _result_row(context: Context, name: str, result: MethodResult, full: float) -> str:
    if result.run is None or result.logprobs is None:
        return f'<tr><th>{escape(name)}</th><td colspan="2">{escape(result.error or "no answer")}</td></tr>'
    answer = marked_answer(context.full, result.run)
    return _row(name, answer, methods.total(result) - full, result.exact_match)


def _row(name: str, answer: str, change: float, same: bool) -> str:
    """A line of the table; the answer is HTML already."""
    mark = '<b class="right">✓</b>' if same else '<b class="wrong">✗</b>'
    number = "<td>once the methods were compared</td>" if isnan(change) else f"<td>{signed(change, plus=True)}</td>"
    return f'<tr><th>{escape(name)}</th><td dir="auto">{mark} {answer}</td>{number}</tr>'
