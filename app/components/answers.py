"""Three answers side by side: while they are being written, and when they are there.

Everything that people or models wrote passes through `html.escape` before it becomes part of the page.
"""

from __future__ import annotations

import re
from dataclasses import fields
from html import escape
from itertools import accumulate, groupby

import streamlit as st

from flowcut.criteria import METHODS
from flowcut.cut import CutConfig
from flowcut.errors import FlowCutError
from flowcut.media.video import Video
from flowcut.records.run import Run, Times
from flowcut_lens.analysis.fidelity import Divergence, Fidelity, Word, compare
from flowcut_lens.app.components.formatting import BYTE_UNITS, FLOP_UNITS, change, duration, scaled, signed
from flowcut_lens.app.jobs.models import EMBEDDED
from flowcut_lens.app.jobs.orders import ARMS, Job
from flowcut_lens.app.media.comparison import Comparison
from flowcut_lens.app.media.truth import is_right, right_answer
from flowcut_lens.app.media.videos import check_frames
from flowcut_lens.app.sidebar.controls import FOR_VIDEOS, PUBLISHED
from flowcut_lens.app.state import session

STAGES = tuple(field.name for field in fields(Times) if field.name != "recording")
SIGN = {True: ("right", "✓ right"), False: ("wrong", "✗ wrong")}


def heading(
    title: str = "What does the model see, and what may be thrown away?",
    below: str = "One question, three answers: from the whole picture, from what the method kept, and from chance.",
) -> None:
    """What the page is for, and the question that what is shown below belongs to."""
    running, shown = session.job(), session.comparison()
    st.html(f'<div class="lens-head"><h1>{escape(title)}</h1><p>{escape(below)}</p></div>')
    if running is not None:
        _question(running.order.question, "Being answered now")
    elif shown is not None:
        _question(shown.full.question, _facts(shown))


def _question(text: str, below: str) -> None:
    asked = f'<p class="lens-question" dir="auto" data-testid="question">{escape(text)}</p>'
    st.html(f'{asked}<p class="lens-facts">{escape(below)}</p>')


def _facts(shown: Comparison) -> str:
    run = shown.full
    told = [f"Model “{run.model_id}”, {run.dtype} on {run.device}", shown.picture.name]
    if shown.picture.frames:
        told.append(f"{len(shown.picture.frames)} frames")
    if shown.picture.seed is not None:
        right = right_answer(shown.picture.seed, run.question)
        told.append("the scene's truth does not cover this question" if right is None else f"in truth: {right}")
    if shown.stored:
        told.append("stored answers, no model was loaded for them")
    return " · ".join(told)


def what_the_model_knows() -> None:
    """A word of warning where the embedded model is to look at something it was never shown."""
    if session.picture().video is not None:
        _whether_it_takes_videos()
    elif session.picture().seed is None and st.session_state.model == EMBEDDED:
        names = ", ".join(f"`{name}`" for name in PUBLISHED)
        st.info(
            "The embedded model knows drawn scenes only: about a photograph its answers mean nothing, though the flow "
            f"you see is really its own. For photographs choose a published model on the left: {names}.",
            icon=":material/info:",
        )


def _whether_it_takes_videos() -> None:
    """Said as soon as it is known; pressing Run would say the same."""
    try:
        check_frames(st.session_state.model, len(session.picture().frames))
    except FlowCutError as error:
        if session.problem() != str(error):
            names = ", ".join(f"`{name}`" for name in FOR_VIDEOS)
            st.info(f"{escape_markdown(str(error))} Published ones: {names}.", icon=":material/info:")


def answers(shown: Comparison) -> None:
    """Three finished answers, compared."""
    longest = max(run.times.total for run in shown.runs)
    cards = [_card(arm, run, shown, longest) for arm, run in zip(ARMS, shown.runs, strict=True)]
    st.html(f'<div class="lens-cards" data-testid="answers">{"".join(cards)}</div>')
    for note in dict.fromkeys(note for run in shown.runs for note in run.notes):
        st.caption(escape_markdown(note))


def growing_answers(job: Job) -> None:
    """Three answers that are still being written."""
    cards = []
    kind = "video" if isinstance(job.order.source, Video) else "picture"
    for arm in ARMS:
        state = job.arms[arm]
        caret = '<span class="caret"></span>' if state.text and state.run is None else ""
        body = f'<p class="lens-answer" dir="auto">{escape(state.text)}{caret}</p>'
        head = f"<header>{_name(job.order.cut_of(arm), kind)}</header>"
        cards.append(f'<section class="lens-card {arm}">{head}{body}</section>')
    st.html(f'<div class="lens-cards" data-testid="growing-answers">{"".join(cards)}</div>')


def escape_markdown(text: str) -> str:
    """Text that Streamlit's Markdown shows as it is."""
    return re.sub(r"([\\`*_{}\[\]()<>#+\-.!|~$:&])", r"\\\1", text)


def marked_answer(full: Run, run: Run) -> str:
    """A pruned run's answer as HTML, the words that differ from the full answer marked."""
    return _marked(compare(full, run).other_words) or "(nothing)"


def _card(arm: str, run: Run, shown: Comparison, longest: float) -> str:
    difference = None if arm == "full" else compare(shown.full, run)
    words = escape(run.answer) if difference is None else _marked(difference.other_words)
    parts = [
        f"<header>{_name(run.cut, shown.picture.kind, run.visual_tokens)}{_verdict(run, shown.picture.seed)}</header>",
        f'<p class="lens-answer" dir="auto">{words or "(nothing)"}</p>',
        f'<p class="lens-difference">{_difference(run, difference)}</p>',
        _times(run.times, shown.full.times, longest, shown.picture.kind),
        _numbers(run, shown.full, shown.picture.kind),
    ]
    return f'<section class="lens-card {arm}">{"".join(parts)}</section>'


def _name(cut: CutConfig | None, kind: str, visual_tokens: int | None = None) -> str:
    """The head of a card: which method, how many tokens, and what else sets it."""
    if cut is None:
        tokens = "" if visual_tokens is None else f", {visual_tokens} tokens"
        return f"<h2>Whole {kind}{tokens}</h2>"
    below = f"seed {cut.seed}" if cut.seed is not None else cut.variant if METHODS[cut.method].has_variants else ""
    title = f"{METHODS[cut.method].label}, {cut.tokens} tokens"
    return f'<h2>{escape(title)}</h2><span class="sub">{escape(below)}</span>'


def _verdict(run: Run, seed: int | None) -> str:
    right = None if seed is None else right_answer(seed, run.question)
    if run.stopped:
        return '<span class="verdict">stopped</span>'
    if right is None:
        return ""
    kind, text = SIGN[is_right(run.answer, right)]
    return f'<span class="verdict {kind}">{text}</span>'


def _marked(words: tuple[Word, ...]) -> str:
    return " ".join(f"<mark>{escape(word.text)}</mark>" if word.differs else escape(word.text) for word in words)


def _difference(run: Run, difference: Fidelity | None) -> str:
    """Where the answer leaves the unpruned one, and how much less sure of the same words it was."""
    if difference is None:
        return f"Mean log-prob per token <b>{_mean_logprob(run)}</b>; the other two are measured against this answer."
    told = ["The same, token for token." if difference.divergence is None else _parting(difference.divergence)]
    if difference.reference_loss_at_divergence is not None:
        told.append(f"It finds its own more likely there by <b>{difference.reference_loss_at_divergence:.2f}</b> nats.")
    if difference.logprob_gap is not None:
        told.append(f"Log-prob gap per shared token <b>{signed(difference.logprob_gap)}</b>.")
    return " ".join(told)


def _parting(divergence: Divergence) -> str:
    own, reference = _token(divergence.other_text), _token(divergence.reference_text)
    return f"First differs at token {divergence.position + 1}: <b>{own}</b> instead of <b>{reference}</b>."


def _token(text: str | None) -> str:
    return "its end" if text is None or not text.strip() else f"“{escape(text.strip())}”"


def _mean_logprob(run: Run) -> str:
    if not run.tokens:
        return "none"
    return signed(run.logprob / len(run.tokens))


def _times(times: Times, full: Times, longest: float, kind: str) -> str:
    """A bar on the scale of the slowest answer, and the seconds of each stage in words."""
    spent = [(stage, getattr(times, stage)) for stage in STAGES if getattr(times, stage) > 0]
    bar = "".join(
        f'<span class="{stage}" style="width:{100 * seconds / longest:.2f}%"></span>' for stage, seconds in spent
    )
    lines = "".join(
        f'<div class="{stage}"><dt>{stage}</dt><dd>{duration(seconds)}</dd></div>' for stage, seconds in spent
    )
    delta = change(times.total, full.total)
    total = f'<p class="lens-total"><b>{duration(times.total)}</b> from {kind} to last word {delta}</p>'
    looking = f'<p class="lens-looking">besides, {duration(times.recording)} to record the flow shown below</p>'
    bar = f'<div class="lens-bar" aria-hidden="true">{bar}</div>'
    return f'<div>{total}{bar}<dl class="lens-times">{lines}</dl>{looking}</div>'


def _numbers(run: Run, full: Run, kind: str) -> str:
    kv, full_kv = sum(run.kv_bytes), sum(full.kv_bytes)
    entries = (
        ("Visual tokens", str(run.visual_tokens), change(run.visual_tokens, full.visual_tokens)),
        ("KV cache", scaled(kv, BYTE_UNITS), change(kv, full_kv)),
        ("Compute", scaled(run.flops.total, FLOP_UNITS), change(run.flops.total, full.flops.total)),
    )
    lines = "".join(
        f"<div><dt>{name}</dt><dd>{value} <small>{delta}</small></dd></div>" for name, value, delta in entries
    )
    return f'<dl class="lens-numbers">{lines}</dl>{_counts(run, kind)}'


def _counts(run: Run, kind: str) -> str:
    """The counts behind the number of visual tokens, where they tell something: all were counted, none computed."""
    told = []
    if run.tower_tokens and run.tower_tokens != run.visual_tokens:
        told.append(f"{run.tower_tokens} out of the vision encoder")
    if run.separator_tokens:
        what = "newlines" if kind == "picture" else "no patches (newlines, or the CLS tokens of frames)"
        told.append(f"{run.separator_tokens} of the visual tokens are {what}")
    if len(set(run.layer_tokens)) > 1:
        told.append(f"prompt tokens read by decoder {tokens_by_layer(run.layer_tokens)}")
    return f'<p class="lens-looking" data-testid="counts">{"; ".join(told)}</p>' if told else ""


def tokens_by_layer(counts: tuple[int, ...]) -> str:
    """Counts by layer in words, neighbours that are equal as one: `layers 0-1: 340, layers 2-31: 180`."""
    runs = [(number, len(list(same))) for number, same in groupby(counts)]
    ends = list(accumulate(length for _, length in runs))
    return ", ".join(
        f"layer {end - 1}: {number}" if length == 1 else f"layers {end - length}–{end - 1}: {number}"
        for (number, length), end in zip(runs, ends, strict=True)
    )
