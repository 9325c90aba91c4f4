"""Every table and every number about the embedded model, made again from the shipped results of single questions.

    python -m benchmarks.recompute              # prints them all, and whether the pages say the same
    python -m benchmarks.recompute --write      # and puts them into the pages

benchmarks/results/heldout.jsonl.gz gives training/RESULTS.md, RESULTS.json and README's sentences about the model;
benchmarks/results/causal.jsonl.gz gives benchmarks/causal.md, causal.json and README's sentences about the check.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from benchmarks import causal_tables, heldout_tables, sentences
from training.results import read_packed

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
CAUSAL = ROOT / "benchmarks" / "results" / "causal.jsonl.gz"
SAID = ("embedded", "causal")
"""README's places for sentences: about the model, about the causal check."""


def causal_numbers(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the causal check was measured with, and all its numbers.

    Before its single questions are shipped these are the rounded numbers of causal.json.
    """
    if path.exists():
        facts, lines = read_packed(path)
        return facts, causal_tables.study(lines, facts["budgets"])
    found = json.loads((ROOT / "benchmarks" / "causal.json").read_text())
    return found.pop("facts"), found


def pages(causal_results: Path = CAUSAL) -> dict[Path, str]:
    """Each page that can be made again to the digit, as it should be."""
    held_out = heldout_tables.study(heldout_tables.read())
    facts, causal = causal_numbers(causal_results)
    found = {
        ROOT / "training" / "RESULTS.md": heldout_tables.as_text(held_out),
        ROOT / "training" / "RESULTS.json": heldout_tables.as_json(held_out),
    }
    if causal_results.exists():
        found[ROOT / "benchmarks" / "causal.md"] = causal_tables.as_text(facts, causal)
        found[ROOT / "benchmarks" / "causal.json"] = causal_tables.as_json(facts, causal)
    said = dict(zip(SAID, (sentences.embedded(held_out), sentences.causal(causal)), strict=True))
    found[README] = sentences.put_into(README.read_text(encoding="utf-8"), said)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="put what was made into the pages")
    wanted = parser.parse_args()
    found = pages()
    for path, text in found.items():
        if path.suffix == ".md" and path != README:
            print(text)
    if not CAUSAL.exists():
        print(causal_tables.as_text(*causal_numbers(CAUSAL)))
        print(f"{CAUSAL.relative_to(ROOT)} is not there: the causal tables are those of causal.json, which is rounded.")
    for name in SAID:
        print(f"README, {name}: {sentences.said_in(found[README], name)}\n")
    differ = [path for path, text in found.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    for path, text in found.items():
        if wanted.write:
            path.write_text(text, encoding="utf-8")
        state = "as it was" if path not in differ else "written" if wanted.write else "says something else: --write"
        print(f"{path.relative_to(ROOT)}: {state}")
    sys.exit(bool(differ) and not wanted.write)


if __name__ == "__main__":
    main()
