"""The panel of answer tokens, as Streamlit runs it: words, layers, heads, and what is said where nothing is known."""

from __future__ import annotations

from dataclasses import replace

from streamlit.testing.v1 import AppTest

from analysis.answer import answer_words
from app.widgets.words import NOT_RECORDED
from tests.app.conftest import run, settled, shown


def captions(page: AppTest) -> str:
    return " ".join(caption.value for caption in page.caption)


def test_a_stored_answer_shows_where_its_words_looked(page: AppTest) -> None:
    spoken = answer_words(shown(page).full)
    assert spoken
    assert f"All tokens, “{spoken[0].text}”" in captions(page)
    assert "all decoder layers · mean of all heads" in captions(page)
    layers, heads = page.selectbox("word-layer"), page.selectbox("word-head")
    assert len(layers.options) == 5
    assert len(heads.options) == 7
    layers.set_value(2).run()
    page.selectbox("word-head").set_value(3).run()
    assert "decoder layer 2 · head 3" in captions(settled(page))


def test_a_new_question_brings_its_own_words(page: AppTest) -> None:
    page.text_area("question").set_value("Describe the picture.").run()
    run(page)
    spoken = answer_words(shown(page).full)
    assert len(spoken) > 5
    assert f"All tokens, “{spoken[0].text}”" in captions(page)


def test_a_run_without_attention_says_so(page: AppTest) -> None:
    bare = shown(page)
    page.session_state.comparison = replace(bare, full=replace(bare.full, answer_attention=None))
    page.run()
    assert NOT_RECORDED in captions(page)
