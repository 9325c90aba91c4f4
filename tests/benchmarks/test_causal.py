"""The causal check over the held-out scenes: its draws, and its tables from shipped questions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import flowcut
from benchmarks import causal_tables, recompute, sentences
from benchmarks.causal import SEEDS, all_cuts
from training.results import pack

NAMES = ("flowcut", "random", "dart", "stride")
FACTS = {**recompute.causal_numbers(Path("no such file"))[0], "revision": "abc", "budgets": [64, 16]}


def test_random_masks_are_drawn_anew_for_every_scene_and_seed() -> None:
    model = flowcut.load("embedded")
    first, second = (all_cuts(model, scene) for scene in (500_000, 500_001))
    seeds = [cut.seed for cuts in (first, second) for cut in cuts["random"]]
    assert len(set(seeds)) == 2 * len(SEEDS)
    assert {name: cuts for name, cuts in first.items() if name != "random"} == {
        name: cuts for name, cuts in second.items() if name != "random"
    }


def scene(seed: int, stream: np.random.Generator) -> dict[str, Any]:
    questions = [
        {
            "type": kind,
            "fall": stream.normal(size=16).round(7).tolist(),
            "object": stream.choice([0.0, 0.5], 16).tolist(),
            "right": bool(stream.random() < 0.9),
            "spearman": {name: float(stream.normal()) for name in NAMES if name != "stride"},
            "kept": {
                name: {str(t): [[int(stream.random() < 0.8), -0.1]] * (5 if name == "random" else 1) for t in (64, 16)}
                for name in NAMES
            },
        }
        for kind in ("colour", "describe")
    ]
    return {"seed": seed, "questions": questions}


@pytest.fixture(scope="module")
def lines() -> list[dict[str, Any]]:
    stream = np.random.default_rng(0)
    return [scene(seed, stream) for seed in range(40)]


def test_tables_are_made_again_from_shipped_questions(lines: list[dict[str, Any]], tmp_path: Path) -> None:
    pack(tmp_path / "causal.jsonl.gz", FACTS, lines)
    facts, found = recompute.causal_numbers(tmp_path / "causal.jsonl.gz")
    text = causal_tables.write_tables(FACTS, lines, tmp_path)
    assert causal_tables.as_text(facts, found) == text == (tmp_path / "causal.md").read_text()
    assert causal_tables.as_json(facts, found) == (tmp_path / "causal.json").read_text()
    said = sentences.causal(found)
    assert "Over 40 held-out scenes" in said
    for name, methods in (("FlowCut keeps", "flowcut"), ("DART, which cuts inside the language model, keeps", "dart")):
        shares = [100 * found["kept"]["value"][tokens][methods]["mean"] for tokens in ("64", "16")]
        assert "{} {:.1f} and {:.1f}%".format(name, *shares) in said


def test_the_causal_page_is_compared_as_soon_as_its_questions_are_there(
    lines: list[dict[str, Any]], tmp_path: Path
) -> None:
    results = tmp_path / "causal.jsonl.gz"
    assert "causal.md" not in {path.name for path in recompute.pages(results)}
    pack(results, FACTS, lines)
    made = {path.name: text for path, text in recompute.pages(results).items()}
    assert "weights abc" in made["causal.md"]
    assert '"revision": "abc"' in made["causal.json"]
    assert "Over 40 held-out scenes" in " ".join(made["README.md"].split())
