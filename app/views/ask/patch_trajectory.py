"""Why was this patch pruned? The chosen patch through the layers, in a few sentences and a table.

The stage listens to the whole page: a click on what carries `data-patch` or `data-layer` chooses that patch or layer.
"""

from __future__ import annotations

from html import escape
from math import isnan

import streamlit as st

from flowcut.criteria import METHODS
from flowcut.criteria.stages import DECODER, PROJECTOR
from flowcut.records.run import Run
from flowcut.records.vision import FlowRecord
from flowcut_lens.analysis.trajectory import LayerTrace, NearestKept, nearest_kept_patch, trace_patch
from flowcut_lens.analysis.views import NOT_READ
from flowcut_lens.app.components.formatting import signed

HINT = "Click a patch, in the mask or in the graph, to follow it through the layers: its scores, its rank, the cut-off."
HOW_TO_READ = (
    "How to read this: attention, similarity, value norm (of the head-averaged value), score and running score are "
    "given against their mean over the patches kept so far: 1 is an even share. Score: (attention + similarity) × "
    "value norm, each as a share. "
    "Running score: half the past layers, half this one. A patch is pruned when its rank is beyond the number of "
    "patches kept; that number is requested by the entropy of CLS attention, or clamped to the budget at the last cut. "
    "The nearest kept patch is the most similar of those kept at the same cut: a low cosine says that none is much "
    "like it. ▸ marks the stage's layer; a click on a layer goes there."
)
NO_NEAREST_KEPT = "This run was recorded without the nearest kept patches: press Run to ask again and see them."
COLUMNS = (
    ("layer", "Vision layer, from 0"),
    ("CLS attention", "Head-mean attention of CLS to the patch, against an even share"),
    ("similarity", "Softmax of value · CLS value, mean over heads, against an even share"),
    ("value norm", "L1 norm of the head-mean value, against its mean"),
    ("score", "Of this layer alone, against its mean"),
    ("running score", "What decides, against its mean"),
    ("rank", "By running score, among the patches kept so far"),
    ("cut-off", "Running score of the lowest ranked patch kept, against the mean"),
    ("margin", "Running score less the cut-off; negative for a pruned patch"),
    ("after this layer", "What the cut did"),
)


def why(run: Run, patch_id: int | None, first: int = 0) -> None:
    """The panel; a hint while no patch is chosen.

    Args:
        run: its record is of one row.
        patch_id: on that row's own grid.
        first: the number of the row's first patch, where patches are numbered through several tiles or frames.
    """
    st.html(panel(run, patch_id, first))


def panel(run: Run, patch_id: int | None, first: int = 0) -> str:
    """The panel as HTML; arguments as in `why`."""
    record = run.record
    if record is None or patch_id is None or not 0 <= patch_id < record.n_patches:
        return f'<section class="lens-why" data-testid="why"><h3>Why was this patch pruned?</h3><p>{HINT}</p></section>'
    trajectory = trace_patch(record, patch_id)
    title = "Why was this patch pruned?" if trajectory[-1].pruned else "Why was this patch kept?"
    verdict = f"{_place(record, patch_id)} {_verdict(run, trajectory, patch_id)}"
    heads = "".join(f'<th scope="col" title="{escape(meaning)}">{name}</th>' for name, meaning in COLUMNS)
    rows = "".join(_row(trace, _count_in_words(run), record.last_read_layer) for trace in trajectory)
    table = f'<div class="scroll"><table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div>'
    facts = f"model {record.model_id} · {run.title} · mean of {record.n_heads} heads · {record.dtype}"
    below = f'<p class="quiet">{HOW_TO_READ}</p><p class="quiet">{escape(facts)}</p>'
    nearest = ""
    if trajectory[-1].pruned:
        found = nearest_kept_patch(record, patch_id)
        nearest = f'<p data-testid="nearest">{_nearest_kept(record, found, trajectory[-1].layer, first)}</p>'
    return (
        f'<section class="lens-why" data-testid="why"><h3>{title}</h3><p>{verdict}</p>{nearest}{table}{below}</section>'
    )


def _place(record: FlowRecord, patch_id: int) -> str:
    if record.geometry is None:
        return f"Patch {patch_id}"
    row, column = divmod(patch_id, record.geometry.grid_cols)
    where = "" if record.geometry.view == "picture" else f" of {record.geometry.view}"
    return f"Patch {patch_id}{where} (row {row}, column {column})"


def _nearest_kept(record: FlowRecord, nearest: NearestKept | None, layer: int, first: int) -> str:
    """Which kept patch is most like the pruned one, as a button that chooses it."""
    if nearest is None:
        return NO_NEAREST_KEPT
    place = _place(record, nearest.patch_id).lower()
    later = "was kept to the end" if nearest.pruned_at < 0 else f"was itself pruned after layer {nearest.pruned_at}"
    button = f'<button type="button" class="lens-pick" data-patch="{first + nearest.patch_id}">{place}</button>'
    return (
        f"The nearest kept patch: {button}, cosine <b>{nearest.cosine:.2f}</b>. Of the patches "
        f"kept at this cut, its value vector in layer {layer} (all heads joined) is the most similar; it {later}."
    )


def _count_in_words(run: Run) -> str:
    """What decides how many patches are pruned at a cut that is not the last."""
    recipe = None if run.cut is None else METHODS[run.cut.method].recipe
    return "entropy" if recipe is None or recipe.adaptive else "equal counts"


def _outside_the_encoder(run: Run, patch_id: int) -> str:
    """What a method that cuts behind the encoder did to a patch."""
    assert run.cut is not None
    method = METHODS[run.cut.method]
    left = f"left the encoder, like every patch. {escape(method.label)} cuts {method.cuts_at.place}"
    if run.final_patch_ids is None:
        return f"{left}."
    return f"{left}: there it was {'kept' if patch_id in run.final_patch_ids else 'pruned'}."


def _verdict(run: Run, trajectory: tuple[LayerTrace, ...], patch_id: int) -> str:
    """What happened to the patch, in one sentence or two."""
    last = trajectory[-1]
    if run.cut is None:
        return "was not pruned: this is the run with all tokens."
    if run.cut.stage in (PROJECTOR, DECODER):
        return _outside_the_encoder(run, patch_id)
    if run.record is not None and not run.record.steps:
        return "was kept: nothing had to be pruned."
    if all(trace.rank is None for trace in trajectory):
        method = METHODS[run.cut.method].label
        outcome = f"was pruned after layer {last.layer}" if last.pruned else "was kept to the end"
        return f"{outcome}. {escape(method)} does not score layer by layer: it chose once, after the feature layer."
    if last.pruned:
        count = f"clamped to the budget of {run.cut.tokens}" if last.clamped else f"requested by {_count_in_words(run)}"
        return (
            f"was pruned after layer {last.layer}: it ranked {last.rank} of {last.n_patches} and {last.kept} were "
            f"kept, {signed(abs(last.margin))} below the cut-off. The count of this cut was {count}."
        )
    cuts = [trace for trace in trajectory if trace.kept is not None]
    if not cuts:
        return "was kept: no cut pruned anything."
    closest = min(cuts, key=lambda trace: trace.margin)
    return (
        f"was kept to the end. Its smallest margin was after layer {closest.layer}: rank {closest.rank} of "
        f"{closest.n_patches} where {closest.kept} were kept, {signed(closest.margin)} above the cut-off."
    )


def _row(trace: LayerTrace, count: str, last_read_layer: int) -> str:
    numbers = (
        trace.cls_attention, trace.similarity, trace.value_norm, trace.score, trace.running_score,
    )  # fmt: skip
    rank = "" if trace.rank is None else f"{trace.rank} of {trace.n_patches}"
    margin = "" if isnan(trace.margin) else signed(trace.margin, 2)
    read = trace.layer <= last_read_layer
    after = _after(trace, count) if read else NOT_READ
    cells = [*(_number(value) for value in numbers), rank, _number(trace.cutoff), margin, after]
    kind = "unread" if not read else "pruned" if trace.pruned else "cut" if trace.kept is not None else ""
    body = "".join(f"<td>{cell}</td>" for cell in cells)
    name = f'<button type="button" class="lens-pick" data-layer="{trace.layer}">{trace.layer}</button>'
    return f'<tr class="{kind}" data-layer="{trace.layer}"><th scope="row">{name}</th>{body}</tr>'


def _number(value: float) -> str:
    return "" if isnan(value) else f"{value:.2f}"


def _after(trace: LayerTrace, count: str) -> str:
    """What this layer's cut did to the patch, and what decided how many were pruned."""
    if trace.kept is None:
        return "pruned" if trace.pruned else ""
    count = "clamped" if trace.clamped else count
    return f"{'pruned' if trace.pruned else 'kept'}: {trace.kept} of {trace.n_patches} kept ({count})"
