"""Why was this patch cut? The chosen patch through the layers, in one sentence and a table."""

from __future__ import annotations

from html import escape
from math import isnan

import streamlit as st

from analysis.story import Chapter, patch_story
from app.widgets.numbers import signed
from flowcut.criteria import METHODS
from flowcut.record import FlowRecord
from flowcut.results import Run

HINT = "Click a patch, in the mask or in the graph, to follow it through the layers: its scores, its rank, the cut-off."
HOW_TO_READ = (
    "Attention, similarity, value norm, score and running score are told against their mean over the patches alive: "
    "1 is an even share. Score: (attention + similarity) × value norm, each as a share. Running score: half the past, "
    "half of now. A patch goes where its rank is beyond the number that stays."
)
COLUMNS = (
    ("layer", "Vision layer, from 0"),
    ("CLS attention", "Head-mean attention of CLS to the patch, against an even share"),
    ("similarity", "Softmax of value · CLS value, mean over heads, against an even share"),
    ("value norm", "L1 norm of the head-mean value, against its mean"),
    ("score", "Of this layer alone, against its mean"),
    ("running score", "What decides, against its mean"),
    ("rank", "By running score, of the patches alive"),
    ("cut-off", "Running score of the weakest patch that stayed, against the mean"),
    ("after this layer", "What the cut did"),
)


def why(run: Run, patch_id: int | None) -> None:
    """The panel; a hint while no patch is chosen."""
    st.html(panel(run, patch_id))


def panel(run: Run, patch_id: int | None) -> str:
    """The panel as HTML."""
    record = run.record
    if record is None or patch_id is None or not 0 <= patch_id < record.n_patches:
        return f'<section class="lens-why" data-testid="why"><h3>Why was this patch cut?</h3><p>{HINT}</p></section>'
    story = patch_story(record, patch_id)
    title = "Why was this patch cut?" if story[-1].died else "Why did this patch stay?"
    told = f"{_place(record, patch_id)} {_verdict(run, story)}"
    heads = "".join(f'<th scope="col" title="{escape(meaning)}">{name}</th>' for name, meaning in COLUMNS)
    rows = "".join(_row(chapter) for chapter in story)
    table = f'<div class="scroll"><table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div>'
    facts = f"model {record.model_id} · {run.title} · mean of {record.n_heads} heads · {record.dtype}"
    below = f'<p class="quiet">{HOW_TO_READ}</p><p class="quiet">{escape(facts)}</p>'
    return f'<section class="lens-why" data-testid="why"><h3>{title}</h3><p>{told}</p>{table}{below}</section>'


def _place(record: FlowRecord, patch_id: int) -> str:
    if record.geometry is None:
        return f"Patch {patch_id}"
    row, column = divmod(patch_id, record.geometry.grid_cols)
    where = "" if record.geometry.part == "picture" else f" of {record.geometry.part}"
    return f"Patch {patch_id}{where} (row {row}, column {column})"


def _verdict(run: Run, story: tuple[Chapter, ...]) -> str:
    """What happened to the patch, in one sentence or two."""
    last = story[-1]
    if run.cut is None:
        return "was never up for a cut: this is the run with all tokens."
    if run.record is not None and not run.record.steps:
        return "stayed: nothing had to go."
    if all(chapter.rank is None for chapter in story):
        method = METHODS[run.cut.method].label
        fate = f"went after layer {last.layer}" if last.died else "stayed to the end"
        return f"{fate}. {escape(method)} does not score layer by layer: it chose once, after the feature layer."
    if last.died:
        count = f"forced to the budget of {run.cut.tokens}" if last.forced else "asked for by entropy"
        return (
            f"went after layer {last.layer}: it ranked {last.rank} of {last.alive} and {last.kept} stayed, "
            f"{signed(abs(last.margin))} below the cut-off. The count of this cut was {count}."
        )
    cuts = [chapter for chapter in story if chapter.kept is not None]
    if not cuts:
        return "stayed: no cut took anything."
    closest = min(cuts, key=lambda chapter: chapter.margin)
    return (
        f"stayed to the end. Its closest call was after layer {closest.layer}: rank {closest.rank} of {closest.alive} "
        f"where {closest.kept} stayed, {signed(closest.margin)} above the cut-off."
    )


def _row(chapter: Chapter) -> str:
    numbers = (
        chapter.cls_attention, chapter.similarity, chapter.value_norm, chapter.score, chapter.running_score,
    )  # fmt: skip
    rank = "" if chapter.rank is None else f"{chapter.rank} of {chapter.alive}"
    cells = [*(_number(value) for value in numbers), rank, _number(chapter.cutoff), _after(chapter)]
    kind = "went" if chapter.died else "cut" if chapter.kept is not None else ""
    body = "".join(f"<td>{cell}</td>" for cell in cells)
    return f'<tr class="{kind}"><th scope="row">{chapter.layer}</th>{body}</tr>'


def _number(value: float) -> str:
    return "" if isnan(value) else f"{value:.2f}"


def _after(chapter: Chapter) -> str:
    """What this layer's cut did to the patch, and why so many went."""
    if chapter.kept is None:
        return "went" if chapter.died else ""
    count = "forced" if chapter.forced else "entropy"
    return f"{'went' if chapter.died else 'stayed'}: {chapter.kept} of {chapter.alive} stay ({count})"
