"""Questions of every odd kind."""

import pytest

import flowcut
from flowcut.generation.question_text import MAX_CHARACTERS, clean_text

RESERVED = ["<image>", "<s>", "</s>", "<pad>"]


@pytest.mark.parametrize("text", ["", " ", "\n\t ", "\u200b", "\u200f\u200e", "\x00", "\u3000"])
def test_nothing_is_no_question(text: str) -> None:
    with pytest.raises(flowcut.InvalidQuestion, match="empty: write at least one word"):
        clean_text(text, RESERVED)


@pytest.mark.parametrize("text", [None, 3, b"bytes", ["a"]])
def test_only_text_is_a_question(text: object) -> None:
    with pytest.raises(flowcut.InvalidQuestion, match="write it as text"):
        clean_text(text, RESERVED)


def test_long_questions_are_refused_by_their_length() -> None:
    with pytest.raises(flowcut.InvalidQuestion, match=rf"20000 characters: shorten it to at most {MAX_CHARACTERS}"):
        clean_text("a" * 20_000, RESERVED)
    assert clean_text("a" * MAX_CHARACTERS, RESERVED).text


@pytest.mark.parametrize(
    "text",
    [
        "?",
        "what color is it",
        "ما لون الكرة؟",
        "מה צבע הכדור?",
        "🙂👩‍👩‍👧‍👦?",
        "球は何色ですか",
        "<b>bold</b> & <script>alert(1)</script>",
    ],
)
def test_any_script_is_left_as_it_is(text: str) -> None:
    clean = clean_text(text, RESERVED)
    assert clean.text == text
    assert clean.notes == ()


def test_special_tokens_become_plain_text() -> None:
    clean = clean_text("<image> and </s><image>", RESERVED)
    assert not any(token in clean.text for token in RESERVED)
    assert len(clean.notes) == 2
    assert "plain text" in clean.notes[0]


def test_special_tokens_that_hide_in_each_other() -> None:
    assert "<image>" not in clean_text("<ima<s>ge> <<image>image>", RESERVED).text


def test_control_characters_and_surrogates_go() -> None:
    assert clean_text("a\x00b\ud800c\x1b[31m\nd", RESERVED).text == "a b c [31m\nd"
