"""PaliGemma with Gemma and with Gemma 2: a prompt that is read in both directions."""

from __future__ import annotations

import pytest

import flowcut
from flowcut.families import family_of
from tests import tiny
from tests.families.laws import TwoWayLaws, model, processor


class TestPaliGemma(TwoWayLaws):
    kind = "PaliGemma"
    suffix_type = 1


class TestPaliGemma2(TwoWayLaws):
    kind = "PaliGemma2"
    suffix_type = 1


@pytest.mark.parametrize(
    ("question", "task"),
    [
        ("What is it?", "answer en What is it?"),
        ("answer de Was ist das?", "answer de Was ist das?"),
        ("caption en", "caption en"),
        ("describe en", "describe en"),
        ("describe the cat", "answer en describe the cat"),
        ("detect cat ; dog", "detect cat ; dog"),
        ("ocr", "ocr"),
        ("ocr is what?", "answer en ocr is what?"),
        ("Detect the mood.", "answer en Detect the mood."),
    ],
)
def test_a_task_stays_as_it_is_and_a_question_becomes_one(question: str, task: str) -> None:
    assert family_of(model("PaliGemma").config).prompt(processor("PaliGemma"), question, None) == f"<image>{task}"


def test_there_is_no_place_for_a_system_prompt() -> None:
    with pytest.raises(flowcut.InvalidQuestion, match="no place for a system prompt"):
        family_of(model("PaliGemma").config).prompt(processor("PaliGemma"), "Who?", "Be brief.")


def test_the_first_token_and_the_lines_end_are_the_processors() -> None:
    own = processor("PaliGemma")
    ids = own(images=[tiny.picture()], text=["<image>answer en Who?"], return_tensors="pt")["input_ids"][0].tolist()
    assert own.tokenizer.decode(ids[64:]) == "<bos>answer en Who?\n"
