"""The panel of answer tokens, as Streamlit runs it: words, layers, heads, and what is said where nothing is known."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from streamlit.testing.v1 import AppTest

from flowcut_lens.analysis.answer import answer_words, heads_by_mass
from flowcut_lens.analysis.figures.run_style import HOW_TO_READ
from flowcut_lens.app.components import stage
from flowcut_lens.app.views.ask.patch_trajectory import panel
from flowcut_lens.app.views.ask.token_attention import NOT_RECORDED
from tests.app.conftest import run, settled, shown

STAGE = Path(stage.__file__).parent


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


def html(page: AppTest) -> str:
    return " ".join(box.value for box in page.get("html") if isinstance(box.value, str))


def test_both_runs_tell_masses_and_their_own_heads(page: AppTest) -> None:
    for name in ("picture", "prompt text", "first token (sink)", "answer so far"):
        assert html(page).count(f"<dt>{name}</dt>") == 2
    word = answer_words(shown(page).full)[0]
    for one in (shown(page).full, shown(page).cut):
        assert one.answer_attention is not None
        head, mass = heads_by_mass(one.answer_attention, word)[0]
        assert f"Heads by attention to the picture: {head} ({mass:.0%})" in html(page)
    pictures = html(page).count('class="lens-heat"')
    assert pictures == 2


def test_weighing_by_value_changes_both_pictures(page: AppTest) -> None:
    raw = html(page).count("data:image/jpeg"), html(page)
    page.toggle("word-weighted").set_value(True).run()
    weighed = html(page)
    assert raw[0] == weighed.count("data:image/jpeg") == 2
    assert not set(pictures_in(raw[1])) & set(pictures_in(weighed))
    assert "norm of attention × value" in captions(page)


def pictures_in(text: str) -> list[str]:
    return [part.partition('"')[0] for part in text.split("data:image/jpeg;base64,")[1:]]


def test_the_same_word_beside_chance(page: AppTest) -> None:
    assert f"{shown(page).full.title} and {shown(page).cut.title}" in captions(page).replace("\\", "")
    page.segmented_control("inside").set_value("control").run()
    assert f"{shown(page).full.title} and {shown(page).control.title}" in captions(page).replace("\\", "")


def test_a_new_question_brings_its_own_words(page: AppTest) -> None:
    page.text_area("question").set_value("Describe the picture.").run()
    run(page)
    spoken = answer_words(shown(page).full)
    assert len(spoken) > 5
    assert f"All tokens, “{spoken[0].text}”" in captions(page)


def test_attention_is_never_called_a_cause(page: AppTest) -> None:
    panels = [panel(run, patch) for run in shown(page).runs for patch in (0, 200, 400)]
    scripts = [path.read_text(encoding="utf-8") for path in (*STAGE.glob("js/*.js"), STAGE / "stage.html")]
    assert len(scripts) > 10
    texts = [captions(page), html(page), *HOW_TO_READ.values(), *panels, *scripts]
    assert not re.findall(r"(?<!!)\b(because|importan\w*|salien\w*)\b", " ".join(texts), re.IGNORECASE)


def test_a_run_without_attention_says_so(page: AppTest) -> None:
    bare = shown(page)
    page.session_state.comparison = replace(bare, full=replace(bare.full, answer_attention=None))
    page.run()
    assert NOT_RECORDED in captions(page)
