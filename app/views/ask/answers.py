"""Three answers side by side: while they are being written, and when they are there.

Everything that people or models wrote passes through `html.escape` before it becomes part of the page.
"""

from __future__ import annotations

from html import escape

import streamlit as st

from flowcut.criteria import METHODS
from flowcut.cut import CutConfig
from flowcut.media.video import Video
from flowcut.records.run import Run
from flowcut_lens.analysis.fidelity import Divergence, Fidelity, compare
from flowcut_lens.app.components.differences import marked_words
from flowcut_lens.app.components.formatting import escape_markdown, signed
from flowcut_lens.app.components.progress import watch
from flowcut_lens.app.jobs.orders import ARMS, Job
from flowcut_lens.app.media.comparison import Comparison
from flowcut_lens.app.media.truth import is_right, right_answer
from flowcut_lens.app.state import session
from flowcut_lens.app.views.ask.cost import numbers, times_bar

SIGN = {True: ("right", "✓ right"), False: ("wrong", "✗ wrong")}


def answers_or_progress() -> None:
    """The answers growing, or the last good ones."""
    running, shown = session.job(), session.comparison()
    if running is not None:
        watch(running, growing_answers)
    elif shown is not None:
        answers(shown)


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


def _card(arm: str, run: Run, shown: Comparison, longest: float) -> str:
    difference = None if arm == "full" else compare(shown.full, run)
    words = escape(run.answer) if difference is None else marked_words(difference.other_words)
    parts = [
        f"<header>{_name(run.cut, shown.picture.kind, run.visual_tokens)}{_verdict(run, shown.picture.seed)}</header>",
        f'<p class="lens-answer" dir="auto">{words or "(empty)"}</p>',
        f'<p class="lens-difference">{_difference(run, difference)}</p>',
        times_bar(run, shown.full, longest, shown.picture.kind),
        numbers(run, shown.full, shown.picture.kind),
    ]
    return f'<section class="lens-card {arm}">{"".join(parts)}</section>'


def _name(cut: CutConfig | None, kind: str, visual_tokens: int | None = None) -> str:
    """The head of a card: which method, how many tokens, and what else sets it."""
    if cut is None:
        tokens = "" if visual_tokens is None else f", {visual_tokens} tokens"
        return f"<h2>Full {kind}{tokens}</h2>"
    below = f"seed {cut.seed}" if cut.seed is not None else ", ".join(cut.set_apart)
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


def _difference(run: Run, difference: Fidelity | None) -> str:
    """Where the answer leaves the unpruned one, and how much less sure of the same words it was."""
    if difference is None:
        return f"Mean log-prob per token <b>{_mean_logprob(run)}</b>; the other two are measured against this answer."
    sentences = ["The same, token for token." if difference.divergence is None else _parting(difference.divergence)]
    if difference.reference_loss_at_divergence is not None:
        sentences.append(
            f"It finds its own more likely there by <b>{difference.reference_loss_at_divergence:.2f}</b> nats."
        )
    if difference.logprob_gap is not None:
        sentences.append(f"Log-prob gap per shared token <b>{signed(difference.logprob_gap)}</b>.")
    return " ".join(sentences)


def _parting(divergence: Divergence) -> str:
    own, reference = _token(divergence.other_text), _token(divergence.reference_text)
    return f"First differs at token {divergence.position + 1}: <b>{own}</b> instead of <b>{reference}</b>."


def _token(text: str | None) -> str:
    return "the end" if text is None or not text.strip() else f"“{escape(text.strip())}”"


def _mean_logprob(run: Run) -> str:
    if not run.tokens:
        return "none"
    return signed(run.logprob / len(run.tokens))
