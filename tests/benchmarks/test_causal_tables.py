"""The statistics of benchmarks/causal.py, by hand and against what they must do; and the page of the former check."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from benchmarks import causal_tables
from benchmarks.causal_report import with_truth
from benchmarks.causal_tables import as_text, object_on_top
from benchmarks.intervals import Measured, summary
from flowcut_lens.scenes import about, draw, questions


def test_what_the_drops_know_of_the_object() -> None:
    logprob_drop = [0.5, 0.1, 0.4, 0.2, 0.3, 0.0, 0.0, 0.0, 0.0, 0.0] * 2
    shown = [0.9, 0, 0.5, 0, 0, 0, 0, 0, 0, 0.1] + [0.0] * 10
    asked = [
        {"fall": logprob_drop, "object": shown},
        {"fall": logprob_drop, "object": None},
        {"fall": [0.0] * 20, "object": shown},
    ]
    found = object_on_top(asked, np.array([7, 7, 8]))
    np.testing.assert_array_equal(found.scene, [7, 8])
    assert found.values[1, 0] == 0.5, "of the two highest, 0 and 10, one shows it"
    np.testing.assert_allclose(found.values[2], 3 / 20)
    assert np.isnan(found.values[0, 1])
    every_order = np.arange(20) / 19
    known = object_on_top([{"fall": list(every_order), "object": list(every_order + 0.1)}], np.array([0]))
    assert known.values[0, 0] == pytest.approx(1)


def test_equal_blocks_are_no_agreement() -> None:
    """One block of a hundred shows the object and costs most: the rest, in any order, says nothing."""
    logprob_drop, shown = np.zeros(100), np.zeros(100)
    logprob_drop[40] = shown[40] = 1
    logprob_drop[:40] = np.linspace(0, 0.1, 40)
    agreement = object_on_top([{"fall": logprob_drop.tolist(), "object": shown.tolist()}] * 40, np.arange(40)).values[0]
    assert abs(agreement.mean()) < 0.1
    assert agreement.std() > 0


def test_no_questions_give_no_rows() -> None:
    assert summary(Measured(["one"], np.zeros((1, 0)), np.zeros(0, int))) == {}
    assert summary(object_on_top([{"fall": [0.1], "object": None}], np.array([0]))) == {}


def test_the_object_lies_in_the_blocks_that_show_it() -> None:
    scene = draw(500_000)
    asked = [question.text for question in questions(scene, seed=1)]
    line = {"seed": 500_000, "questions": [{"question": text, "subsets": {"effect": [0.0] * 144}} for text in asked]}
    for text, question in zip(asked, with_truth(line)["questions"], strict=True):
        objects = about(scene, text)
        if not objects:
            assert question["object"] is None
            continue
        pixels = scene.object_mask(objects)
        shares = [pixels[28 * (i // 12) :, 28 * (i % 12) :][:28, :28].mean() for i in range(144)]
        np.testing.assert_allclose(question["object"], shares)


NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e-?\d+)?")


def page_and_today() -> tuple[str, str]:
    """The stored page, and what the stored numbers give; those were rounded, the page's were not."""
    folder = Path(causal_tables.__file__).parent
    found = json.loads((folder / "causal.json").read_text())
    return (folder / "causal.md").read_text(), as_text(found["facts"], found)


def words_of(page: str) -> list[str]:
    """A page's prose, without tables and numbers."""
    return [NUMBER.sub("", line) for line in page.splitlines() if not line.startswith("|")]


def test_the_stored_page_is_worded_as_it_would_be_today() -> None:
    page, today = page_and_today()
    assert words_of(page) == words_of(today)


def test_the_stored_tables_hold_the_stored_numbers() -> None:
    """Rounding twice may change the last digit by one, and the order of rows that are alike."""
    page, today = (sorted(line for line in text.splitlines() if line.startswith("| ")) for text in page_and_today())
    assert len(page) == len(today) > 200
    for stored, made in zip(page, today, strict=True):
        for one, other in zip(NUMBER.findall(stored), NUMBER.findall(made), strict=True):
            unit = 10.0 ** -len(one.partition(".")[2])
            assert float(one) == pytest.approx(float(other), abs=1.01 * unit), stored
