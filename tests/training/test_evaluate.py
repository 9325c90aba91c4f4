"""The examiner: what is drawn anew, what the floors read, and that a run that was broken off goes on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from flowcut.criteria import Evidence
from flowcut_lens import scenes
from training import evaluate, results
from training.evaluate import MODEL, QUESTIONS, Examiner, Way, by_scene, chosen_patches, examine_all
from training.heldout import FIRST_SEED, held_out

WHOLE = Evidence(1, 576)
FEW = [Way("full", 576), Way("flowcut official", 64), Way("random", 64, 0), Way("no picture"), Way("object patches")]


@pytest.fixture(scope="module")
def examiner() -> Examiner:
    return Examiner(MODEL)


@pytest.fixture(scope="module")
def asked() -> list[tuple[int, evaluate.Asked]]:
    """Two scenes, one of them with a description."""
    rows = by_scene(json.loads(line) for line in QUESTIONS.read_text().splitlines())
    described = next(scene for scene in rows if any(one["type"] == "describe" for one in scene[1]))
    return [rows[0], described] if described is not rows[0] else rows[:2]


def patches(scene: int, seed: int | None, method: str = "random", tokens: int | None = 64) -> list[int]:
    return chosen_patches(scenes.draw(scene), Way(method, tokens, seed), WHOLE).tolist()


@pytest.mark.parametrize(("method", "tokens"), [("random", 64), ("one patch per object", None)])
def test_a_draw_is_anew_for_every_scene_and_seed_and_always_the_same(method: str, tokens: int | None) -> None:
    drawn = {(scene, seed): patches(scene, seed, method, tokens) for scene in range(5) for seed in range(4)}
    assert len({tuple(ids) for ids in drawn.values()}) == len(drawn)
    assert all(patches(scene, seed, method, tokens) == ids for (scene, seed), ids in drawn.items())


def test_derived_seeds_are_all_different() -> None:
    seeds = [scenes.derived_seed(scene, seed) for scene in range(500_000, 500_500) for seed in range(5)]
    assert len(set(seeds)) == len(seeds)


def test_floors_read_what_they_say() -> None:
    scene = scenes.draw(500_003)
    shows = scene.object_mask().reshape(24, 14, 24, 14).any(axis=(1, 3)).reshape(-1)
    assert patches(500_003, None, "no picture", None) == []
    assert patches(500_003, None, "object patches", None) == np.flatnonzero(shows).tolist()
    assert patches(500_003, None, "background patches", None) == np.flatnonzero(~shows).tolist()
    one_each = patches(500_003, 0, "one patch per object", None)
    assert len(one_each) <= len(scene.objects)
    for index in range(len(scene.objects)):
        assert scene.object_patches(coverage=0.1, object_ids=[index])[one_each].any()


def test_a_line_is_one_question_answered_in_one_way(examiner: Examiner, asked: Any) -> None:
    seed, questions = asked[1]
    rows = examiner.examine(seed, questions, FEW)["rows"]
    assert [(row["question"], row["method"]) for row in rows] == [
        (number, way.method) for number in range(len(questions)) for way in FEW
    ]
    shows = scenes.draw(seed).object_patches(coverage=0.1)
    for row in rows:
        assert row["type"] == questions[row["question"]]["type"]
        assert row["kept"] == (row["tokens"] if row["tokens"] else {"no picture": 0}.get(row["method"], row["kept"]))
        assert 0 <= row["on_objects"] <= min(row["kept"], shows.sum())
        assert ("facts" in row) == (row["type"] == "describe")
        if "facts" in row:
            true, stated, present = row["facts"]
            assert true <= min(stated, present)
            assert not row["right"] or true == stated == present


def test_the_packed_pass_is_what_decoding_gives(examiner: Examiner, asked: Any) -> None:
    seed, questions = asked[1]
    assert examiner.disagreements(seed, questions) == 0
    with torch.no_grad():
        seen = list(examiner.kept(scenes.draw(seed), FEW))
        right = examiner.answer(seen, questions)
        for one, own in zip(seen, right, strict=True):
            texts = [examiner.decode(one.tokens, question["question"])[0] for question in questions]
            pairs = zip(texts, questions, strict=True)
            assert own.tolist() == [scenes.matches(text, question["answer"]) for text, question in pairs]


def test_a_run_that_was_broken_off_goes_on(tmp_path: Path, asked: Any) -> None:
    rows = [row for _, own in asked for row in own]
    growing = tmp_path / "growing.jsonl"
    facts, whole = examine_all(MODEL, rows, FEW[:2], growing, workers=1)
    text = growing.read_text()
    first, one, two = text.splitlines()
    growing.write_text("\n".join([first, one, two[: len(two) // 2]]))  # in the middle of a line
    assert examine_all(MODEL, rows, FEW[:2], growing, workers=1) == (facts, whole)
    assert growing.read_text() == text
    with pytest.raises(SystemExit, match="other settings or another model"):
        results.begun(growing, {**facts, "weights": "others"})


def test_packed_results_are_the_same_bytes_and_come_back(tmp_path: Path) -> None:
    rows = [{"scene": 1, "right": 1}, {"scene": 2, "right": 0}]
    for name in ("one.jsonl.gz", "two.jsonl.gz"):
        results.pack(tmp_path / name, {"weights": "w"}, rows)
    assert (tmp_path / "one.jsonl.gz").read_bytes() == (tmp_path / "two.jsonl.gz").read_bytes()
    assert results.read_packed(tmp_path / "one.jsonl.gz") == ({"weights": "w"}, rows)
    assert not list(tmp_path.glob("*.partial"))


def test_the_held_out_questions_are_those_of_their_seeds() -> None:
    stored = [json.loads(line) for line in QUESTIONS.read_text().splitlines()]
    assert held_out(FIRST_SEED["test"], n_scenes=3) == stored[:12]
