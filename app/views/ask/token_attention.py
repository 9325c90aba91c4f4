"""Answer tokens: choose a word of the answer, see what the language model read when it chose it, in two runs.

The pictures carry an empty mark that the stage lays over the chosen patch, and a click on them chooses one.
"""

from __future__ import annotations

from html import escape

import streamlit as st
from PIL.Image import Image

from flowcut.records.answer_attention import AnswerAttention
from flowcut.records.run import Run
from flowcut.records.unread import NO_PLACES
from flowcut_lens.analysis.answer import AnswerWord, Masses, answer_words, heads_by_mass, look, masses, same_word
from flowcut_lens.analysis.data_url import picture_url
from flowcut_lens.app.components.formatting import escape_markdown
from flowcut_lens.app.media.chosen import ChosenPicture
from flowcut_lens.app.media.comparison import Comparison
from flowcut_lens.app.state import selection, session, url
from flowcut_lens.app.state.selection import ALL
from flowcut_lens.app.views.ask.overlay import heat_pictures

HEADS_NAMED = 6
KINDS = {"picture": "picture", "prompt": "prompt text", "first": "first token (sink)", "answer": "answer so far"}
HOW_TO_READ = (
    "How to read this: orange is the attention of the position that chose this word to each visual token, full orange "
    "the strongest patch of the picture; white patches were pruned. Weighed by value, it is the norm of attention × "
    "value: what a token adds to the head's output. The bar is attention, not weighed; much of it goes to the prompt's "
    "first token, the sink. A head that attends to a token need not use it. A click on a picture chooses the patch, "
    "which is framed in all panels."
)
NO_PICTURE = "No picture: this run does not know which patches its visual tokens are made of. Ask again."
NOT_RECORDED = (
    "The attention of each word was not recorded: this model's decoder cannot be read yet, or its attention over so "
    "long an answer would take too much memory here; flowcut.ask(..., answer_attention=True) has no such limit."
)


@st.fragment
def words(shown: Comparison) -> None:
    """The panel of three answers; choosing another word runs this part of the page alone."""
    with st.container(border=True, key="words"):
        st.html('<h3 class="lens-panel">What did the language model read for each word?</h3>')
        spoken = answer_words(shown.full)
        if any(run.answer_attention is None for run in shown.runs):
            st.caption(NOT_RECORDED)
        elif not spoken:
            st.caption("The answer has no words.")
        else:
            _panel(shown, spoken)
            url.write(session.address())


def _panel(shown: Comparison, spoken: tuple[AnswerWord, ...]) -> None:
    places = range(len(spoken))
    st.pills(
        "Word of the full answer", places, format_func=lambda place: spoken[place].text, required=True,
        label_visibility="collapsed", **selection.show_in(f"word-{shown.full.id}", "word", places),
    )  # fmt: skip
    at = selection.chosen().word
    assert shown.full.answer_attention is not None
    _choices(shown.full.answer_attention, spoken[at])
    pruned = shown.pruned(selection.chosen().arm)
    other = same_word(answer_words(pruned), spoken, at)
    left, right = st.columns(2)
    with left:
        _one(shown.full, spoken[at], shown.picture)
    with right:
        if other is None:
            st.caption(escape_markdown(f"{pruned.title}: its answer ends before this word."))
        else:
            _one(pruned, other, shown.picture)
    st.caption(HOW_TO_READ)
    st.caption(escape_markdown(_facts(shown.full, pruned)))


def _choices(attention: AnswerAttention, word: AnswerWord) -> None:
    """Decoder layer, head, and whether to weigh by value."""
    layers, heads, score_layer = st.columns([2, 2, 2], vertical_alignment="bottom")
    decoder_layers = [ALL, *range(attention.visual.shape[1])]
    layers.selectbox(
        "Decoder layer", decoder_layers, **selection.show_in("word-layer", "decoder", decoder_layers),
        format_func=lambda one: _named(attention, one),
    )  # fmt: skip
    ranked = dict(heads_by_mass(attention, word, _chosen_layer()))
    decoder_heads = [ALL, *ranked]
    heads.selectbox(
        "Head", decoder_heads, **selection.show_in("word-head", "head", decoder_heads),
        help="In order of the attention that all visual tokens get from it",
        format_func=lambda one: f"all {len(ranked)}, mean" if one == ALL else f"head {one}: {ranked[one]:.0%}",
    )  # fmt: skip
    score_layer.toggle("Weigh by value", **selection.show_in("word-weighted", "weighted", (False, True)))


def _named(attention: AnswerAttention, layer: int) -> str:
    """A decoder layer in the box: its own number, of which some models record every fourth."""
    numbers = attention.decoder_layers
    return f"all {len(numbers)}, mean" if layer == ALL else f"layer {numbers[layer]}"


def _chosen_layer() -> int | None:
    return None if selection.chosen().decoder == ALL else selection.chosen().decoder


def _chosen_head() -> int | None:
    return None if selection.chosen().head == ALL else selection.chosen().head


def _one(run: Run, word: AnswerWord, picture: ChosenPicture) -> None:
    """One run's heat picture, how the rest of the attention is divided, and its heads."""
    attention, layer, head = run.answer_attention, _chosen_layer(), _chosen_head()
    assert attention is not None
    values = look(attention, word, layer, head, selection.chosen().weighted)
    st.caption(f"{escape_markdown(run.title)}, “{escape_markdown(word.text)}”")
    alt = f"Attention of {run.title} for the word {word.text}"
    heats = heat_pictures(run, values, picture)
    if len(heats) == 1:
        st.html(_picture(heats[0].image, alt))
    with st.container(horizontal=True, gap="small"):
        for heat in heats if len(heats) > 1 else []:
            st.image(heat.image, alt=f"{alt}: {heat.title}", caption=escape_markdown(heat.title), width="content")
    if not heats:
        st.caption(NO_PLACES if run.record is not None and run.record.unread else NO_PICTURE)
    st.html(_bar(masses(attention, word, layer, head)) + _heads(attention, word, layer))


def _picture(heat: Image, alt: str) -> str:
    url = picture_url(heat, quality=92, subsampling=0)
    return f'<div class="lens-heat"><img src="{url}" alt="{escape(alt)}"><i class="mark"></i></div>'


def _bar(shares: Masses) -> str:
    parts = [(name, label, getattr(shares, name)) for name, label in KINDS.items()]
    spans = "".join(f'<span class="mass-{name}" style="width:{100 * share:.2f}%"></span>' for name, _, share in parts)
    lines = [f'<div class="mass-{name}"><dt>{label}</dt><dd>{share:.0%}</dd></div>' for name, label, share in parts]
    bar = f'<div class="lens-bar" aria-hidden="true">{spans}</div>'
    return f'<div class="lens-masses">{bar}<dl class="lens-times">{"".join(lines)}</dl></div>'


def _heads(attention: AnswerAttention, word: AnswerWord, layer: int | None) -> str:
    """This run's own heads, in order of their attention to the picture."""
    ranked = heads_by_mass(attention, word, layer)
    named = ", ".join(f"{head} ({mass:.0%})" for head, mass in ranked[:HEADS_NAMED])
    more = f", and {len(ranked) - HEADS_NAMED} with less" if len(ranked) > HEADS_NAMED else ""
    return f'<p class="lens-heads">Heads by attention to the picture: {named}{more}</p>'


def _facts(full: Run, pruned: Run) -> str:
    layer, head = _chosen_layer(), _chosen_head()
    assert full.answer_attention is not None
    recorded = full.answer_attention.decoder_layers
    every = "all decoder layers" if full.answer_attention.layers is None else f"{len(recorded)} decoder layers"
    where = every if layer is None else f"decoder layer {recorded[layer]}"
    which = "mean of all heads" if head is None else f"head {head}"
    measure = "norm of attention × value" if selection.chosen().weighted else "attention"
    return f"model {full.model_id} · {full.title} and {pruned.title} · {where} · {which} · {measure} · {full.dtype}"
