"""What is said in numbers about the embedded model is what the shipped results give, to the digit."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from benchmarks import recompute, sentences
from benchmarks.recompute import README, ROOT, SAID
from benchmarks.sentences import put_into, said_in, verdicts
from training.evaluate import MODEL, QUESTIONS, by_scene, questions_hash, weights_hash
from training.results import read_packed

PACKED = sorted((ROOT / "benchmarks" / "results").glob("*.jsonl.gz"))
FEW_MEGABYTES = 5_000_000


@pytest.fixture(scope="module")
def pages() -> dict[Path, str]:
    return recompute.pages()


def test_every_page_says_what_the_results_give(pages: dict[Path, str]) -> None:
    assert {path.name for path in pages} >= {"RESULTS.md", "RESULTS.json", "README.md"}
    for path, text in pages.items():
        assert path.read_text(encoding="utf-8") == text, f"{path.name}: python -m benchmarks.recompute --write"


@pytest.mark.parametrize("packed", PACKED, ids=lambda path: str(path.name))
def test_results_are_those_of_the_model_that_is_shipped(packed: Path) -> None:
    facts, _ = read_packed(packed)
    assert facts.get("weights", facts.get("revision")) == weights_hash(ROOT / MODEL)
    assert packed.stat().st_size < FEW_MEGABYTES


def test_results_are_about_the_questions_that_are_shipped() -> None:
    """All of them, or those of the first so many scenes; each in every way, once."""
    rows = [json.loads(line) for line in (ROOT / QUESTIONS).read_text().splitlines()]
    facts, lines = read_packed(ROOT / "benchmarks" / "results" / "heldout.jsonl.gz")
    assert facts["questions"] == questions_hash(rows)
    ways = {(line["method"], line["tokens"], line["seed"]) for line in lines}
    assert len(ways) == facts["ways"]
    n_scenes = len({line["scene"] for line in lines})
    asked = [(seed, number) for seed, own in by_scene(rows)[:n_scenes] for number in range(len(own))]
    found = [(line["scene"], line["question"], (line["method"], line["tokens"], line["seed"])) for line in lines]
    assert sorted(found, key=str) == sorted(((*place, way) for place in asked for way in ways), key=str)


def test_readme_states_no_share_that_is_not_made_from_results() -> None:
    text = README.read_text(encoding="utf-8")
    for name in SAID:
        text = text.replace(re.split(f"<!--/?{name}-->", text)[1], "")
    assert re.findall(r"\d ?%", text) == []


def test_a_comparison_is_stated_at_every_budget() -> None:
    rows = {
        192: {"mean": 0.01, "holm": 0.01},
        128: {"mean": 0.01, "holm": 0.06},
        64: {"mean": -0.02, "holm": 0.049},
        32: {"mean": 0.04, "holm": 0.001},
    }
    said = "significantly more at 192 and 32, significantly fewer at 64, and no significant difference at 128"
    assert verdicts(rows) == said
    assert verdicts({64: rows[64]}) == "significantly fewer at 64"


PAGE = """# Page

- One.<!--here--> Old words.<!--/here--> And more.
- Two.

Text
"""


def test_sentences_are_put_in_their_place_and_nothing_else_changes() -> None:
    page = put_into(PAGE, {"here": " ".join(["new"] * 50)})
    assert page.startswith("# Page\n\n- One.<!--here--> new new")
    assert " ".join(page.split()).endswith("new<!--/here--> And more. - Two. Text")
    assert page.endswith("\n- Two.\n\nText\n")
    assert all(len(line) <= sentences.WIDTH and not line.lstrip().startswith("<!--") for line in page.splitlines())
    assert said_in(page, "here") == " ".join(["new"] * 50)
    assert put_into(page, {"here": "Old words."}) == PAGE


def test_a_page_without_the_place_is_refused() -> None:
    with pytest.raises(ValueError, match="0 marks <!--there-->"):
        put_into(PAGE, {"there": "x"})
