"""The tables of training/RESULTS.md, from the shipped results of every question (training/evaluate.py) alone."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.intervals import LEVEL, Measured, Row, add_holm, summary
from flowcut_lens.scenes import KINDS
from training.results import Facts, Line, read_packed

RESULTS = Path(__file__).parent / "results" / "heldout.jsonl.gz"
FULL = "full"
WHOLE = (FULL, 576)
"""The whole picture."""
RANDOM = "random"
FLOORS = ("no picture", "background patches", "one patch per object", "object patches")
COUNTS = ("true", "stated", "present")
"""Facts of a description, in the order of a line."""
BY_TYPE = ("flowcut official", RANDOM)
"""Methods whose exact answers RESULTS.md gives by type at every budget."""


@dataclass(frozen=True, eq=False)
class HeldOut:
    """What was found for Q questions in each of W ways; a way that draws at random is the mean of its seeds."""

    facts: Facts
    """What it was measured with."""
    ways: list[tuple[str, int]]
    """Method and budget; the budget of a floor is 0, the scene decides."""
    kinds: np.ndarray
    """str [Q]"""
    scene: np.ndarray
    """int64 [Q]"""
    right: np.ndarray
    """float64 [W, Q]; share of the seeds with the exact answer."""
    kept: np.ndarray
    """float64 [W, Q], tokens that were read."""
    on_objects: np.ndarray
    """float64 [W, Q], share of them that shows an object; NaN where none was read."""
    counts: dict[str, np.ndarray]
    """float64 [W, Q] each: facts of a description that are `true`, `stated` and `present`; NaN for other questions."""

    @property
    def budgets(self) -> list[int]:
        """Largest first."""
        return sorted({tokens for method, tokens in self.ways if method == RANDOM}, reverse=True)

    def methods(self, tokens: int) -> list[str]:
        """Those that were given this budget, in the order in which they were asked."""
        return [method for method, own in self.ways if own == tokens]

    def measured(
        self, values: np.ndarray, ways: Iterable[tuple[str, int]], out_of: np.ndarray | None = None
    ) -> Measured:
        """Some of the ways, under their labels."""
        chosen = list(ways)
        rows = [self.ways.index(way) for way in chosen]
        parts = None if out_of is None else out_of[rows]
        return Measured([label(*way) for way in chosen], values[rows], self.scene, parts)


def label(method: str, tokens: int) -> str:
    """`random 64`; a floor's budget is not its own to choose."""
    return f"{method} {tokens}" if tokens else method


def read(path: Path = RESULTS) -> HeldOut:
    """The shipped results."""
    return from_lines(*read_packed(path))


def from_lines(facts: Facts, lines: list[Line]) -> HeldOut:
    """Results as training.evaluate packs them."""
    frame = _frame(lines)
    ways = list(dict.fromkeys(zip(frame["method"], frame["tokens"].tolist(), strict=True)))
    mean = frame.groupby(["method", "tokens", "scene", "question"])[["right", "kept", "share", *COUNTS]].mean()
    grid = {name: np.stack([mean[name][way].to_numpy(dtype=float) for way in ways]) for name in mean.columns}
    asked = frame.drop_duplicates(["scene", "question"]).sort_values(["scene", "question"])
    scene, kinds = asked["scene"].to_numpy(), asked["type"].to_numpy(dtype=str)
    counts = {name: grid[name] for name in COUNTS}
    return HeldOut(facts, ways, kinds, scene, grid["right"], grid["kept"], grid["share"], counts)


def _frame(lines: list[Line]) -> pd.DataFrame:
    """One row a line: the counts of facts in columns of their own, the budget of a floor 0."""
    frame = pd.DataFrame(lines)
    frame["tokens"] = frame["tokens"].fillna(0).astype(int)
    frame[list(COUNTS)] = [line.get("facts", (np.nan,) * len(COUNTS)) for line in lines]
    frame["share"] = frame["on_objects"] / frame["kept"].where(frame["kept"] > 0)
    return frame


def claims(found: HeldOut) -> dict[str, Measured]:
    """Everything that RESULTS.md says, by table: what it is measured on."""
    pruned = [way for way in found.ways if way[0] not in (FULL, *FLOORS)]
    floors = [way for way in found.ways if way[0] in FLOORS]
    right = found.measured(found.right, [WHOLE, *pruned])
    claimed = {
        "exact": right,
        "exact, minus full": right.minus(label(*WHOLE)),
        "exact, minus random": _minus_random(found, pruned),
        "floors": found.measured(found.right, floors),
        "facts right of stated": found.measured(found.counts["true"], found.ways, found.counts["stated"]),
        "facts right of present": found.measured(found.counts["true"], found.ways, found.counts["present"]),
        "kept on objects": found.measured(found.on_objects, [way for way in found.ways if way[0] != "no picture"]),
        "tokens": found.measured(found.kept, floors),
    }
    by_type = {f"by type, {label(*way)}": _by_type(found, way) for way in found.ways}
    return {**claimed, **by_type}


def printed_types(found: HeldOut) -> list[str]:
    """The tables by type that RESULTS.md shows; the others are in RESULTS.json."""
    ways = [way for way in found.ways if way[0] in (FULL, *BY_TYPE, *FLOORS)]
    return [f"by type, {label(*way)}" for way in ways]


def _minus_random(found: HeldOut, pruned: list[tuple[str, int]]) -> Measured:
    """Each method's exact answers minus random's at the same budget."""
    others = [way for way in pruned if way[0] != RANDOM]
    values = np.stack([found.right[found.ways.index(way)] for way in others])
    random = np.stack([found.right[found.ways.index((RANDOM, tokens))] for _, tokens in others])
    return Measured([label(*way) for way in others], values - random, found.scene)


def _by_type(found: HeldOut, way: tuple[str, int]) -> Measured:
    """One way's exact answers by type of question."""
    own = found.right[found.ways.index(way)]
    there = [kind for kind in KINDS if (found.kinds == kind).any()]
    return Measured(there, np.stack([np.where(found.kinds == kind, own, np.nan) for kind in there]), found.scene)


def study(found: HeldOut) -> dict[str, Any]:
    """All numbers of the tables, with intervals; the two tables of differences are each one family of tests."""
    tables = {name: summary(measured) for name, measured in claims(found).items()}
    for name in ("exact, minus full", "exact, minus random"):
        add_holm([tables[name]])
    return {
        "facts": found.facts,
        "questions": len(found.scene),
        "scenes": len(np.unique(found.scene)),
        "first_seed": int(found.scene.min()),
        "last_seed": int(found.scene.max()),
        "budgets": found.budgets,
        "methods": found.methods(found.budgets[0]),
        "tables": tables,
    }


def as_json(numbers: dict[str, Any]) -> str:
    return json.dumps(_rounded(numbers), indent=1) + "\n"


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _rounded(one) for name, one in value.items()}
    return (None if value != value else round(value, 6)) if isinstance(value, float) else value


def as_text(numbers: dict[str, Any]) -> str:
    """RESULTS.md."""
    parts = [
        "# What the embedded model can do, whole and pruned",
        _how(numbers),
        "## The whole model, 576 visual tokens",
        _whole(numbers["tables"]),
        "## Pruned",
        "Difference to the whole model, and to random tokens at the same budget, in points; * : p < 0.05 after Holm's "
        "correction over the column. *On objects*: share of the kept patches of which at least a tenth shows an "
        "object. One-shot ways cut at the feature layer; CLS attention is taken there. Facts: right / stated, right / "
        "present.",
        _pruned(numbers),
        "## Pruned, by type of question",
        "Exact answers in percent; for FlowCut as released, and for random tokens. Every way, with intervals, is in "
        "RESULTS.json.",
        _types(numbers["tables"], [WHOLE, *((name, t) for name in BY_TYPE for t in numbers["budgets"])]),
        "## Floors",
        "What is right without any picture; from the patches that show nothing of any object; from one patch drawn "
        "for each object; and from all patches that show something of one. The patches are as the unpruned encoder "
        "made them: they know of their neighbours.",
        _floors(numbers["tables"]),
        "By type of question, exact answers in percent:",
        _types(numbers["tables"], [(name, 0) for name in FLOORS]),
    ]
    return "\n\n".join(parts) + "\n"


def _how(numbers: dict[str, Any]) -> str:
    facts = numbers["facts"]
    return (
        f"The embedded model (weights {facts['weights']}, {facts['machine']}) on {numbers['questions']} questions "
        f"about {numbers['scenes']} held-out scenes (seeds {numbers['first_seed']} to {numbers['last_seed']}), greedy "
        "answers, whole answers compared. Intervals are 95 % (percentile bootstrap, scenes drawn again with all their "
        "questions); tests flip the signs of scenes. What is drawn at random is the mean of "
        f"{facts['seeds']} seeds, drawn anew for every scene and seed. torch {facts['torch']}, transformers "
        f"{facts['transformers']}, Python {facts['python']}. Written by `python -m benchmarks.recompute --write` from "
        "the result of every question in benchmarks/results/heldout.jsonl.gz, which `python -m training.evaluate` "
        "writes."
    )


def _whole(tables: dict[str, dict[str, Row]]) -> str:
    full = label(*WHOLE)
    stated, present = (points(tables[f"facts right of {part}"][full]) for part in ("stated", "present"))
    lines = [
        f"Exact answers: **{points(tables['exact'][full])}** %. Facts of descriptions: of those stated {stated} % are "
        f"right, of those present {present} % are stated rightly.",
        "",
        "| type | exact, % [95 %] | questions |",
        "|-|-|-|",
    ]
    by_type = tables[f"by type, {full}"]
    return "\n".join([*lines, *(f"| {kind} | {points(row)} | {row['n']} |" for kind, row in by_type.items())])


def _pruned(numbers: dict[str, Any]) -> str:
    tables = numbers["tables"]
    head = "| method | tokens | exact, % [95 %] | minus whole | minus random | facts, % | on objects |"
    ways = [WHOLE, *((method, tokens) for tokens in numbers["budgets"] for method in numbers["methods"])]
    lines = [head, "|-|-|-|-|-|-|-|"]
    for method, tokens in ways:
        name = label(method, tokens)
        whole, random = (tables[f"exact, minus {other}"].get(name) for other in (FULL, RANDOM))
        lines.append(
            f"| {method} | {tokens} | {points(tables['exact'][name])} | {difference(whole)} | {difference(random)} | "
            f"{_facts(tables, name)} | {tables['kept on objects'][name]['mean']:.0%} |"
        )
    return "\n".join(lines)


def _floors(tables: dict[str, dict[str, Row]]) -> str:
    lines = ["| what is read | tokens, mean | exact, % [95 %] | facts, % |", "|-|-|-|-|"]
    for name, row in tables["floors"].items():
        lines.append(f"| {name} | {tables['tokens'][name]['mean']:.1f} | {points(row)} | {_facts(tables, name)} |")
    return "\n".join(lines)


def _facts(tables: dict[str, dict[str, Row]], name: str) -> str:
    return ", ".join(_percent(tables[f"facts right of {part}"][name]["mean"]) for part in ("stated", "present"))


def _percent(share: float) -> str:
    """A dash where there is nothing to be a share of: a model that states no fact states none right."""
    return "–" if share != share else f"{100 * share:.1f}"


def _types(tables: dict[str, dict[str, Row]], ways: list[tuple[str, int]]) -> str:
    names = [label(*way) for way in ways]
    lines = [f"| type | {' | '.join(names)} |", "|-" * (len(names) + 1) + "|"]
    for kind in tables[f"by type, {names[0]}"]:
        cells = (f"{100 * tables[f'by type, {name}'][kind]['mean']:.1f}" for name in names)
        lines.append(f"| {kind} | {' | '.join(cells)} |")
    return "\n".join(lines)


def points(row: Row) -> str:
    """`95.7 [94.6, 96.7]`, of a share in percent."""
    return "{:.1f} [{:.1f}, {:.1f}]".format(*(100 * row[part] for part in ("mean", "low", "high")))


def difference(row: Row | None) -> str:
    """`-1.6 [-2.5, -0.7]*`, in points; nothing where there is no such difference."""
    if row is None:
        return ""
    star = "*" if row["holm"] < LEVEL else ""
    return "{:+.1f} [{:+.1f}, {:+.1f}]".format(*(100 * row[part] for part in ("mean", "low", "high"))) + star
