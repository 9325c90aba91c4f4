"""The tables of RESULTS.md, by hand on a few questions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from benchmarks.heldout_tables import FLOORS, HeldOut, as_json, as_text, claims, from_lines, study

FACTS = {
    "weights": "abc",
    "machine": "CPU",
    "seeds": 2,
    "torch": "2",
    "transformers": "5",
    "python": "3",
}
KINDS = {(1, 0): "colour", (1, 1): "describe", (2, 0): "colour"}
WAYS = [
    ("full", 576, None),
    *((name, 64, None) for name in ("flowcut official", "flowcut paper", "cls-attention", "stride")),
    ("random", 64, 0),
    ("random", 64, 1),
    *((name, None, None) for name in FLOORS),
]


def line(place: tuple[int, int], way: tuple[str, int | None, int | None], **found: Any) -> dict[str, Any]:
    scene, question = place
    method, tokens, seed = way
    row = {"scene": scene, "question": question, "type": KINDS[place], "method": method, "tokens": tokens, "seed": seed}
    counts = {"facts": (2, 3, 4)} if KINDS[place] == "describe" else {}
    return {**row, "kept": 0 if method == "no picture" else tokens or 5, "on_objects": 0, "right": 0, **counts, **found}


@pytest.fixture
def found() -> HeldOut:
    lines = []
    for place in KINDS:
        for way in WAYS:
            right = way[0] == "full" or (way[0] == "random" and place == (2, 0) and way[2] == 1)
            lines.append(line(place, way, right=int(right), on_objects=16 if way[1] == 64 else 0))
    return from_lines(FACTS, lines)


def test_seeds_are_one_way_and_its_mean(found: HeldOut) -> None:
    assert found.ways[0] == ("full", 576)
    assert found.ways.count(("random", 64)) == 1
    assert found.right[found.ways.index(("random", 64))].tolist() == [0, 0, 0.5]
    assert found.scene.tolist() == [1, 1, 2]
    assert found.kinds.tolist() == ["colour", "describe", "colour"]
    assert found.budgets == [64]
    assert found.methods(64) == ["flowcut official", "flowcut paper", "cls-attention", "stride", "random"]


def test_numbers_of_the_tables(found: HeldOut) -> None:
    tables = study(found)["tables"]
    assert tables["exact"]["full 576"]["mean"] == 1
    assert tables["exact"]["random 64"]["mean"] == pytest.approx(1 / 6)
    assert tables["exact, minus full"]["random 64"]["mean"] == pytest.approx(-5 / 6)
    assert tables["exact, minus random"]["stride 64"]["mean"] == pytest.approx(-1 / 6)
    assert "random 64" not in tables["exact, minus random"]
    assert tables["by type, random 64"]["colour"]["mean"] == 0.25
    assert tables["by type, random 64"]["colour"]["n"] == 2
    assert tables["facts right of stated"]["stride 64"]["mean"] == pytest.approx(2 / 3)
    assert tables["facts right of present"]["stride 64"]["mean"] == pytest.approx(2 / 4)
    assert tables["kept on objects"]["stride 64"]["mean"] == 0.25
    assert tables["tokens"]["background patches"]["mean"] == 5
    assert all("holm" in row for row in tables["exact, minus full"].values())


def test_every_claim_is_about_every_question_it_names(found: HeldOut) -> None:
    for name, measured in claims(found).items():
        assert measured.values.shape == (len(measured.names), len(found.scene)), name
        assert len(set(measured.names)) == len(measured.names)
    assert np.isnan(claims(found)["by type, full 576"].values).sum() == 3


def test_pages_name_what_they_show_and_hold_every_way(found: HeldOut) -> None:
    numbers = study(found)
    text = as_text(numbers)
    assert "weights abc" in text
    assert "3 questions about 2 held-out scenes (seeds 1 to 2)" in text
    for method, tokens in found.ways:
        assert f"| {method} | {tokens} |" in text or (method in FLOORS and f"| {method} |" in text)
    assert "| no picture | 0.0 | 0.0 [0.0, 0.0] |" in text
    assert "NaN" not in as_json(numbers)
