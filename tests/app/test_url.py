"""Links: what they open, what is left out of them, and addresses that ask for what cannot be."""

from __future__ import annotations

from dataclasses import replace

import pytest
from streamlit.testing.v1 import AppTest

from flowcut_lens.app.media import gallery
from flowcut_lens.app.state.selection import Selection
from tests.app.conftest import MAIN, SECONDS, run, settled, shown


def opened(**address: str) -> AppTest:
    page = AppTest.from_file(str(MAIN), default_timeout=SECONDS)
    for name, value in address.items():
        page.query_params[name] = value
    return settled(page.run())


def address(page: AppTest) -> dict[str, str]:
    """The query of the page's address; what the test set comes back in lists, what the page set does not."""
    return {name: value if isinstance(value, str) else value[-1] for name, value in page.query_params.items()}


def test_a_stored_scene_opens_without_a_model() -> None:
    second = next(entry for entry in gallery.entries()[1:] if entry.stored)
    page = opened(scene=str(second.seed))
    assert shown(page).stored
    assert shown(page).picture.seed == second.seed


def test_a_question_with_its_settings_is_asked_again() -> None:
    page = opened(scene="1234567", question="How many stars are there?", tokens="32", variant="paper")
    run_shown = shown(page)
    assert not run_shown.stored
    assert run_shown.picture.seed == 1234567
    assert run_shown.full.question == "How many stars are there?"
    assert run_shown.cut.cut is not None
    assert (run_shown.cut.cut.tokens, run_shown.cut.cut.variant) == (32, "paper")
    assert address(page) == {
        "scene": "1234567", "question": "How many stars are there?", "tokens": "32", "variant": "paper",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("asked", "share"), [("important_share:0.75", 0.75), ("important_share:7", 0.5), ("mine:1", 0.5), (",:", 0.5)]
)
def test_a_link_says_the_settings_of_its_method(asked: str, share: float) -> None:
    page = opened(method="vispruner", tokens="32", settings=asked)
    cut = shown(page).cut.cut
    assert cut is not None
    assert (cut.method, cut.setting("important_share")) == ("vispruner", share)
    said = {"settings": asked} if share != 0.5 else {}
    assert address(page) == {"method": "vispruner", "tokens": "32", **said}


def test_the_first_screen_needs_no_address_and_a_question_gets_one() -> None:
    page = opened()
    assert address(page) == {}
    page.text_area("question").set_value("Is there a star?").run()
    run(page)
    assert address(page) == {"question": "Is there a star?"}


@pytest.mark.parametrize(
    "asked",
    [
        {"scene": "-5"},
        {"scene": "1e3"},
        {"scene": "9" * 30},
        {"scene": "²"},
        {"tokens": "0"},
        {"tokens": "many"},
        {"method": "<script>"},
        {"variant": "mine", "question": ""},
        {"patch": "-1"},
        {"patch": "9" * 9},
        {"arm": "both"},
        {"word": "red"},
        {"word": "99999"},
        {"decoder": "4"},
        {"decoder": "-1"},
        {"head": "0.5"},
        {"head": "6"},
        {"weighted": "very"},
    ],
)
def test_an_address_that_asks_for_nonsense_opens_the_first_screen(asked: dict[str, str]) -> None:
    page = opened(**asked)
    assert shown(page).stored
    assert shown(page).picture.seed == gallery.entries()[0].seed
    assert page.session_state.tokens == 64
    assert replace(page.session_state.selection, patch=None) == Selection()


def test_what_is_chosen_in_the_panels_is_in_the_address_and_comes_back() -> None:
    page = opened()
    page.segmented_control("inside").set_value("control").run()
    page.selectbox("word-layer").set_value(2).run()
    page.selectbox("word-head").set_value(3).run()
    page.toggle("word-weighted").set_value(True).run()
    word = page.pills(f"word-{shown(page).full.id}")
    word.set_value(len(word.options) - 1).run()
    written = address(page)
    last = str(len(word.options) - 1)
    first_is_left_out = {} if last == "0" else {"word": last}
    assert written == {"arm": "control", "decoder": "2", "head": "3", "weighted": "1", **first_is_left_out}
    other = opened(**written, patch="217", layer="5")
    chosen = other.session_state.selection
    assert chosen == Selection(217, "control", int(last), 2, 3, True)
    assert address(other) == {**written, "patch": "217", "layer": "5"}, "the stage's own are left alone"
    assert other.selectbox("word-head").value == 3


def test_a_patch_chosen_before_the_stage_appears_is_put_into_the_address_that_it_reads() -> None:
    """As after a visit to another page, which takes the stage's own memory and the address's end."""
    page = AppTest.from_file(str(MAIN), default_timeout=SECONDS)
    page.session_state.selection = Selection(patch=217)
    settled(page.run())
    assert address(page) == {"patch": "217"}
    assert any("Patch 217 (row 9, column 1)" in box.value for box in page.get("html") if isinstance(box.value, str))


def test_a_new_question_begins_at_its_first_word_again() -> None:
    page = opened(word="1", question="Describe the picture.")
    assert page.session_state.selection.word == 1
    page.text_area("question").set_value("Is there a star?").run()
    run(page)
    assert page.session_state.selection.word == 0
    assert "word" not in address(page)


def test_more_tokens_than_there_are_patches() -> None:
    assert opened(tokens="99999").session_state.tokens == 576
