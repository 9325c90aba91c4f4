"""The causal benchmark: a scene measured as asking and scoring one by one would, tables of lines that are made up."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import flowcut
from benchmarks import causal, causal_report, causal_scene
from benchmarks.causal_report import as_text, study, with_truth, write_tables
from flowcut.studies.scorer import AnswerScorer
from flowcut_lens.scenes import about, draw, questions
from training.results import begun

SEED = 400_000
METHODS = ("flowcut", "random", "fastv", "divprune", "stride", "downsample", "flowcut-single")


@pytest.fixture(scope="module")
def measured() -> dict[str, Any]:
    """A validation scene, with few sets, larger blocks and one budget."""
    with pytest.MonkeyPatch.context() as patched:
        for name, value in {"SETS": 45, "MIXED_SETS": 10, "BUDGETS": (64,), "FRESH": 3, "BLOCK": 4}.items():
            patched.setattr(causal_scene, name, value)
        model = flowcut.load("embedded")
        cuts = {name: seeds[:2] for name, seeds in causal.all_cuts(model, SEED).items() if name in METHODS}
        asked = [{"question": one.text, "answer": one.answer, "type": one.kind} for one in questions(draw(SEED), 1, 2)]
        line: dict[str, Any] = json.loads(json.dumps(causal_scene.measure_scene(model, SEED, asked, cuts)))
    return line


def test_a_line_holds_what_scoring_one_by_one_gives(measured: dict[str, Any]) -> None:
    model, scene, question = flowcut.load("embedded"), draw(SEED), measured["questions"][1]
    run = flowcut.ask(model, scene.image, question["question"], record=False)
    assert question["given"] == run.answer
    scorer = AnswerScorer(model, scene.image, question["question"], run.token_ids)
    kept = {
        name: {p: bool(of["64"]) for p, of in own.items()} for name, own in question["kept"].items() if name != "random"
    }
    for name, positions in (("flowcut", "renumbered"), ("flowcut", "kept"), ("fastv", "kept"), ("divprune", "kept")):
        cut = flowcut.Cut(name, tokens=64, positions=positions)
        assert kept[name][positions] == bool(scorer.score_cut(cut).exact_match[0])
    assert [list(kept[name]) for name in ("fastv", "flowcut-single", "downsample")] == [
        ["kept", "renumbered"], ["renumbered"], ["renumbered"],
    ]  # fmt: skip
    single, (row, col) = question["single"], divmod(21, 6)
    ids = np.arange(576).reshape(24, 24)
    gone = ids[4 * row : 4 * row + 4, 4 * col : 4 * col + 4]
    odds = scorer.score([ids.ravel(), np.setdiff1d(ids, gone)], "kept").log_odds
    assert single["effect"][21] == pytest.approx(odds[0] - odds[1], abs=1e-3)
    assert set(question["subsets"]["spearman"]) == {"flowcut", "random", "fastv", "divprune", "flowcut-single"}


def test_a_line_holds_what_is_lost_without_each_object(measured: dict[str, Any]) -> None:
    model, scene, question = flowcut.load("embedded"), draw(SEED), measured["questions"][0]
    run = flowcut.ask(model, scene.image, question["question"], record=False)
    views = {
        str(place): (draw(SEED, without=place).image, np.flatnonzero(scene.object_patches(object_ids=[place])))
        for place in range(len(scene.objects))
    }
    found = list(flowcut.knock_out_objects(model, scene.image, question["question"], run.token_ids, views))
    assert len(question["objects"]) == len(found)
    for place, (row, one) in enumerate(zip(question["objects"], found, strict=True)):
        assert row["picture"] == [pytest.approx(one.full - one.without_object, abs=2e-2), one.flips_without_object]
        assert row["tokens"] == [pytest.approx(one.full - one.without_patches, abs=2e-2), one.flips_without_patches]
        assert row["asked"] == (place in (about(scene, question["question"]) or ()))
        assert all(0 <= share <= 1 for share in row["kept"].values())


def made_up(good: float) -> list[dict[str, Any]]:
    """Lines of a few scenes in which `flowcut` agrees with what blocks add by about `good`; it keeps most answers."""
    rng, lines = np.random.default_rng(0), []
    for seed in range(SEED, SEED + 6):
        scene, rows = draw(seed), []
        for one in questions(scene, 1, 2):
            spearman = {"flowcut": good + 0.05 * rng.normal(), "fastv": 0.02 * rng.normal(), "random": 0.0}
            reading = {"effect": rng.normal(size=144).tolist(), "half": 0.4, "explained": 0.6, "exact": 0.2}
            asked = about(scene, one.text) or ()
            rows.append(
                {
                    "question": one.text, "answer": one.answer, "type": one.kind, "given": one.answer, "right": True,
                    **{name: {**reading, "spearman": spearman} for name in ("subsets", "mixed")},
                    "single": {"full": 9.0, "no_image": -9.0, "effect": reading["effect"], "spearman": spearman},
                    "kept": {
                        "flowcut": {"renumbered": {"64": 1, "16": 1}, "kept": {"64": 1, "16": 0}},
                        "fastv": {"kept": {"64": 1, "16": 0}, "renumbered": {"64": 1, "16": 0}},
                        "random": {"renumbered": {"64": 0.4, "16": 0.2}, "kept": {"64": 0.4, "16": 0.2}},
                    },
                    "objects": [
                        {"asked": n in asked, "picture": [5.0 * (n in asked), int(n in asked)], "tokens": [1.0, 0],
                         "kept": {"flowcut": 0.5, "fastv": 0.9 if n in asked else 0.1}}
                        for n in range(len(scene.objects))
                    ],
                }
            )  # fmt: skip
        lines.append({"seed": seed, "cpu": {"subsets": 30.0, "cuts": 9.0}, "questions": rows})
    return lines


FACTS = {
    "check": "subsets", "model": "embedded", "revision": "abc", "dtype": "float32", "device": "cpu",
    "decoder_layers": 4, "block": 2, "ranked_at": 64, "sets": 3204, "mixed_sets": 800, "fresh": 20,
    "budgets": [64, 16], "seeds": 5, "versions": {"torch": "2"},
}  # fmt: skip


def test_tables_of_lines_that_are_made_up(tmp_path: Path) -> None:
    text = write_tables(FACTS, made_up(0.3), tmp_path)
    found = json.loads((tmp_path / "causal.json").read_text())
    row = found["agreement"]["subsets"]["flowcut"]
    assert row["mean"] == pytest.approx(0.3, abs=0.05)
    assert row["holm"] < 0.1
    assert found["agreement"]["subsets"]["fastv"]["holm"] > 0.1
    assert found["reliability"]["subsets"] == pytest.approx(
        {"half": 0.4, "reliability": 0.5714, "explained": 0.6, "exact": 0.2}
    )
    assert found["objects"]["asked"]["log-odds lost, never painted"]["mean"] == 5
    assert found["objects"]["other"]["flips, never painted"]["mean"] == 0
    blind, sees = (found["objects_kept"]["difference"][name] for name in ("flowcut", "fastv"))
    assert (blind["mean"], sees["mean"]) == (0, pytest.approx(0.8))
    change = found["positions"]["16"]["flowcut"]
    assert (change["renumbered"], change["kept"], change["changed"]) == (1, 0, 1)
    assert found["validity"]["subsets"]["16"] > 0
    assert "Warning" not in text
    assert "FlowCut cannot tell needed objects" in text
    assert "reliability of 0.57" in text
    assert "100.0 → 0.0" in text
    assert (tmp_path / "causal.md").read_text() == text


def test_a_check_that_goes_against_the_answers_kept_is_warned_of() -> None:
    found = study([with_truth(line) for line in made_up(-0.4)], [64, 16])
    assert found["validity"]["subsets"]["16"] < 0
    assert "**Warning: at 64 and 16 tokens" in as_text(FACTS, found)


def test_a_ranking_of_the_truth_is_as_good_as_the_truth() -> None:
    shown = np.zeros(144)
    shown[40:50] = np.linspace(0.1, 1, 10)
    effect = np.where(shown > 0, 5 + shown, 0.01 * np.random.default_rng(0).normal(size=144))
    assert 0.1 < (causal_report._of_truth(shown, effect, 0) or 0) < 0.5, "the other 134 blocks are in no order"
    assert causal_report._of_truth(None, effect, 0) is None
    assert causal_report._of_truth(shown, np.zeros(144), 0) is None


def test_a_run_that_was_broken_off_goes_on(tmp_path: Path) -> None:
    results = tmp_path / "some" / "causal.jsonl"
    assert begun(results, FACTS, "seed") == set()
    with results.open("a") as file:
        file.write(json.dumps({"seed": 7}) + "\n" + '{"seed": 8, "quest')
    assert begun(results, FACTS, "seed") == {7}
    assert len(results.read_text().splitlines()) == 2
    with pytest.raises(SystemExit, match="other settings or another model"):
        begun(results, {**FACTS, "sets": 1}, "seed")
