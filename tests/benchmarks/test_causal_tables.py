"""The statistics of benchmarks/causal.py, by hand and against what they must do; and the page of the former check."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from benchmarks import causal_tables
from benchmarks.causal_report import with_truth
from benchmarks.causal_tables import Measured, as_text, holm, object_on_top, summary
from flowcut_lens.scenes import about, draw, questions


def test_holm_by_hand() -> None:
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm([0.5, 0.9]), [1.0, 1.0])


def measured(values: np.ndarray, per_scene: int = 4) -> Measured:
    return Measured(["one", "two"], values, np.arange(values.shape[1]) // per_scene)


def test_interval_and_test_of_a_difference_that_is_there() -> None:
    noise = np.random.default_rng(0).normal(size=400)
    both = measured(np.stack([noise, noise + 0.05]))
    row = summary(both.minus("one"))["two"]
    assert (row["mean"], row["low"], row["high"]) == pytest.approx((0.05, 0.05, 0.05))
    assert row["p"] < 0.001
    wide = summary(both)["two"]
    assert wide["low"] < wide["mean"] < wide["high"], "not paired, the same difference is lost in the noise"
    assert wide["n"] == 400


def test_questions_of_one_scene_are_no_independent_evidence() -> None:
    """Ten scenes of a hundred equal questions say no more than ten questions."""
    ten = np.random.default_rng(1).normal(size=10)
    alone = summary(Measured(["one"], ten[None], np.arange(10)))["one"]
    repeated = summary(Measured(["one"], np.repeat(ten, 100)[None], np.repeat(np.arange(10), 100)))["one"]
    for part in ("mean", "low", "high", "p"):
        assert repeated[part] == pytest.approx(alone[part])


def test_no_difference_is_found_as_often_as_chance_has_it() -> None:
    values = np.random.default_rng(2).normal(size=(200, 60))
    rows = summary(Measured([str(i) for i in range(200)], values, np.arange(60)))
    assert 0.01 < np.mean([row["p"] < 0.05 for row in rows.values()]) < 0.1
    assert 0.88 < np.mean([row["low"] < 0 < row["high"] for row in rows.values()]) < 0.99


def test_what_could_not_be_measured_is_left_out() -> None:
    values = np.array([[1.0, np.nan, 3.0, 5.0, np.nan, np.nan, np.nan, np.nan]] * 2)
    row = summary(measured(values))["one"]
    assert (row["mean"], row["n"]) == (3.0, 3)


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


def words_of(page: str) -> list[str]:
    """A page's prose: without tables, and without numbers, since those of the stored page were not rounded before."""
    return [re.sub(r"[\d.e+-]+", "", line) for line in page.splitlines() if not line.startswith("|")]


def test_the_stored_page_is_worded_as_it_would_be_today() -> None:
    folder = Path(causal_tables.__file__).parent
    found = json.loads((folder / "causal.json").read_text())
    assert words_of((folder / "causal.md").read_text()) == words_of(as_text(found["facts"], found))
