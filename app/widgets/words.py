"""Answer tokens: choose a word of the answer, see what the language model read when it chose it, in both runs."""

from __future__ import annotations

import streamlit as st

from analysis.answer import AnswerWord, Masses, answer_words, heads_by_mass, look, masses, same_word
from app import session
from app.comparison import Comparison, Picture
from app.widgets.answers import escape_markdown
from app.widgets.heat import heat_pictures
from flowcut.answer_attention import AnswerAttention
from flowcut.results import Run

ALL = -1
"""The choice of all layers, or all heads."""
KINDS = (("picture", "picture"), ("prompt", "prompt text"), ("first", "first token"), ("answer", "answer so far"))
HOW_TO_READ = (
    "Orange: attention of the position that chose this word to each visual token, full orange is the strongest patch "
    "of the picture; white patches were cut. Weighed by value: the norm of attention × value, what a token adds to the "
    "head's output. Attention that goes nowhere sinks into the prompt's first token. A head that looks somewhere need "
    "not use what it sees."
)
NO_PICTURE = "No picture: this run does not know which patches its visual tokens are made of. Ask again."
NOT_RECORDED = (
    "Where each word looked was not recorded: this model's decoder cannot be read yet, or its attention over so long "
    "an answer would take too much memory here; flowcut.ask(..., answer_attention=True) has no such limit."
)


@st.fragment
def words() -> None:
    """The panel for the last good answers; choosing another word runs this part of the page alone."""
    shown = session.comparison()
    if shown is None:
        return
    with st.container(border=True, key="words"):
        st.html('<h3 class="lens-panel">What did the language model read for each word?</h3>')
        spoken = answer_words(shown.full)
        if shown.full.answer_attention is None or shown.cut.answer_attention is None:
            st.caption(NOT_RECORDED)
        elif not spoken:
            st.caption("The answer has no words.")
        else:
            _panel(shown, spoken)


def _panel(shown: Comparison, spoken: tuple[AnswerWord, ...]) -> None:
    at = st.pills(
        "Word of the whole picture's answer", range(len(spoken)), format_func=lambda place: spoken[place].text,
        default=0, required=True, key=f"word-{shown.full.id}", label_visibility="collapsed",
    )  # fmt: skip
    at = 0 if at is None else at
    attention = shown.full.answer_attention
    assert attention is not None
    layer, head, weighted = _choices(attention, spoken[at])
    other = same_word(answer_words(shown.cut), spoken, at)
    left, right = st.columns(2)
    with left:
        _one(shown.full, spoken[at], shown.picture, layer, head, weighted)
    with right:
        if other is None:
            st.caption(escape_markdown(f"{shown.cut.title}: its answer ends before this word."))
        else:
            _one(shown.cut, other, shown.picture, layer, head, weighted)
    st.caption(HOW_TO_READ)
    st.caption(escape_markdown(_facts(shown, layer, head)))


def _choices(attention: AnswerAttention, word: AnswerWord) -> tuple[int | None, int | None, bool]:
    """Decoder layer, head (None: the mean of all) and whether to weigh by value."""
    layers, heads, weigh = st.columns([2, 2, 2], vertical_alignment="bottom")
    n_layers = attention.visual.shape[1]
    layer = layers.selectbox(
        "Decoder layer", [ALL, *range(n_layers)], key="word-layer",
        format_func=lambda one: f"all {n_layers}, mean" if one == ALL else f"layer {one}",
    )  # fmt: skip
    layer = None if layer == ALL else layer
    ranked = dict(heads_by_mass(attention, word, layer))
    head = heads.selectbox(
        "Head, by attention to the picture", [ALL, *ranked], key="word-head",
        format_func=lambda one: f"all {len(ranked)}, mean" if one == ALL else f"head {one}: {ranked[one]:.0%}",
    )  # fmt: skip
    return layer, None if head == ALL else head, weigh.toggle("Weigh by value", key="word-weighted")


def _one(run: Run, word: AnswerWord, picture: Picture, layer: int | None, head: int | None, weighted: bool) -> None:
    """One run's heat picture and where the rest of the attention went."""
    attention = run.answer_attention
    assert attention is not None
    values = look(attention, word, layer, head, weighted)
    st.caption(f"{escape_markdown(run.title)}, “{escape_markdown(word.text)}”")
    alt = f"Where {run.title} looked for the word {word.text}"
    heats = heat_pictures(run, values, picture)
    if len(heats) == 1:
        st.image(heats[0].image, alt=alt, width="content")
    for heat in heats if len(heats) > 1 else []:
        st.image(heat.image, alt=f"{alt}: {heat.title}", caption=escape_markdown(heat.title), width="content")
    if not heats:
        st.caption(NO_PICTURE)
    st.html(_bar(masses(attention, word, layer, head)))


def _bar(shares: Masses) -> str:
    parts = [(name, label, getattr(shares, name)) for name, label in KINDS]
    spans = "".join(f'<span class="mass-{name}" style="width:{100 * share:.2f}%"></span>' for name, _, share in parts)
    lines = [f'<div class="mass-{name}"><dt>{label}</dt><dd>{share:.0%}</dd></div>' for name, label, share in parts]
    bar = f'<div class="lens-bar" aria-hidden="true">{spans}</div>'
    return f'<div class="lens-masses">{bar}<dl class="lens-times">{"".join(lines)}</dl></div>'


def _facts(shown: Comparison, layer: int | None, head: int | None) -> str:
    where = "all decoder layers" if layer is None else f"decoder layer {layer}"
    which = "mean of all heads" if head is None else f"head {head}"
    runs = f"{shown.full.title} and {shown.cut.title}"
    return f"model {shown.full.model_id} · {runs} · {where} · {which} · {shown.full.dtype}"
