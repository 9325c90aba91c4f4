"""The tables of the former causal check: single blocks taken away, positions renumbered.

Its results are stored in causal.json and causal.md until those of the present one are (see causal_report). Means over
questions with intervals and tests by scene (benchmarks/intervals.py); tests are Holm-corrected over their table.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from benchmarks.intervals import LEVEL, Measured, add_holm, summary
from flowcut.criteria import METHODS
from flowcut_lens.analysis.causal import DRAWS, in_drawn_order

SEED = 0
BASELINES = ("random", "flowcut")
MATTERS = 0.01
"""Nats from which on the loss of a block is said to cost the answer something."""
TOP = 0.1
"""Share of the blocks that is called the top."""
ALL_SCENES = 500


def study(lines: list[dict[str, Any]], budgets: list[int]) -> dict[str, Any]:
    """All numbers of the tables: by table, column and criterion."""
    questions = [question for line in lines for question in line["questions"]]
    scene = np.array([line["seed"] for line in lines for _ in line["questions"]])
    kinds = np.array([question["type"] for question in questions])
    agreement = _collect(questions, scene, lambda question, name: question["spearman"].get(name), "spearman")
    kept = {
        str(t): _collect(questions, scene, lambda question, name, t=t: _kept_at(question, name, t)) for t in budgets
    }
    by_kind = {kind: kinds == kind for kind in sorted(set(kinds.tolist()))}
    largest = np.array([max(question["fall"]) for question in questions])
    return {
        "agreement": _table({"all": agreement}),
        "agreement_where_it_matters": _table({"all": agreement.of(largest >= MATTERS)}),
        "largest_fall": float(np.median(largest)),
        "lowest_fall": float(np.median([min(question["fall"]) for question in questions])),
        "negative": float(np.mean([logprob_drop < 0 for question in questions for logprob_drop in question["fall"]])),
        "matters": float(np.mean(largest >= MATTERS)),
        "object": summary(object_on_top(questions, scene)),
        "kept": _table(kept),
        "agreement_by_type": _table({kind: agreement.of(chosen) for kind, chosen in by_kind.items()}),
        "kept_by_type": {
            tokens: _table({kind: measured.of(chosen) for kind, chosen in by_kind.items()})
            for tokens, measured in kept.items()
        },
        "right": float(np.mean([question["right"] for question in questions])),
        "questions": len(questions),
        "scenes": len(lines),
        "first_seed": int(scene.min()),
        "last_seed": int(scene.max()),
    }


def object_on_top(questions: list[dict[str, Any]], scene: np.ndarray) -> Measured:
    """What the drops know of the object that is asked about, whose pixels are known; questions about none are left out.

    `agreement`: Spearman between the object's share of each block and the block's drop, mean over draws of an order for
    the blocks that show none of it, since a criterion must put those in some order too; `top`: the share of the blocks
    with the largest drops that show it, `area`: of all blocks.
    """
    asked = [place for place, question in enumerate(questions) if any(question["object"] or ())]
    stream = np.random.default_rng(SEED)
    pairs = [(np.array(questions[place]["object"]), np.array(questions[place]["fall"])) for place in asked]
    rows = [
        _object_row(shown, logprob_drop, stream.random((DRAWS, len(logprob_drop)))) for shown, logprob_drop in pairs
    ]
    return Measured(["agreement", "top", "area"], np.array(rows).reshape(-1, 3).T, scene[asked])


def _object_row(shown: np.ndarray, logprob_drop: np.ndarray, draws: np.ndarray) -> tuple[float, float, float]:
    """`draws`: float [DRAWS, P], orders for blocks that are equal."""
    top = np.lexsort((draws[0], -logprob_drop))[: max(1, round(TOP * len(logprob_drop)))]
    rankings = in_drawn_order(shown, draws)
    agreement = (
        np.mean([spearmanr(ranks, logprob_drop).statistic for ranks in rankings])
        if np.ptp(logprob_drop) > 0
        else np.nan
    )
    return float(agreement), float((shown[top] > 0).mean()), float((shown > 0).mean())


def _kept_at(question: dict[str, Any], name: str, tokens: int) -> float:
    return float(np.mean([same for same, _ in question["kept"][name][str(tokens)]]))


def _collect(questions: list[dict[str, Any]], scene: np.ndarray, read: Any, field: str = "kept") -> Measured:
    names = list(questions[0][field])
    values = [[read(question, name) for question in questions] for name in names]
    return Measured(names, np.array(values, dtype=float), scene)


def _table(columns: dict[str, Measured]) -> dict[str, Any]:
    """By column: every criterion's mean, and its differences to the baselines, Holm-corrected over the table."""
    found: dict[str, Any] = {"value": {column: summary(measured) for column, measured in columns.items()}}
    for baseline in BASELINES:
        differences = {column: summary(measured.minus(baseline)) for column, measured in columns.items()}
        add_holm(differences.values())
        found[f"minus_{baseline}"] = differences
    return found


def write_tables(facts: dict[str, Any], lines: list[dict[str, Any]], folder: Path) -> str:
    """causal.json and causal.md in a folder; returns the latter's text."""
    found = study(lines, facts["budgets"])
    text = as_text(facts, found)
    (folder / "causal.json").write_text(as_json(facts, found))
    (folder / "causal.md").write_text(text)
    return text


def as_json(facts: dict[str, Any], found: dict[str, Any]) -> str:
    """All numbers of the tables, and those that the tables leave out."""
    return json.dumps({"facts": facts, **rounded(found)}, indent=1) + "\n"


def rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: rounded(one) for name, one in value.items()}
    return None if value != value else round(value, 4) if isinstance(value, float) else value


def as_text(facts: dict[str, Any], found: dict[str, Any]) -> str:
    """The tables in Markdown."""
    parts = [
        "# Which criterion does the causal check trust?",
        _how(facts, found),
        "## What the check can see",
        _reach(found),
        "## The ranking by what its loss costs the answer",
        f"Spearman's rank correlation between a criterion's ranking of the blocks (asked for {facts['ranked_at']} "
        "tokens; mean rank of a block's patches) and the drop of ln p of the answer without each; mean over questions. "
        "Differences are paired by question; * : p < 0.05 after Holm's correction over the column. Last column: the "
        f"correlation in those questions in which some block costs {MATTERS} nats or more.",
        _agreement(found["agreement"], found["agreement_where_it_matters"]["value"]["all"]),
        "## The answer kept, by budget",
        "Share of questions, in percent, whose answer under the cut is that of the full picture, token for token "
        f"(greedy decoding); random: mean of {facts['seeds']} seeds, drawn {facts['drawn']}.",
        _grid(found["kept"]["value"], percent=True),
        "Difference to random, in percentage points; * : p < 0.05 after Holm's correction over the table.",
        _grid(found["kept"]["minus_random"], percent=True),
        "Difference to FlowCut, likewise.",
        _grid(found["kept"]["minus_flowcut"], percent=True),
        "## By type of question",
        "The rank correlation of the first table; * : differs from random, p < 0.05 after Holm's correction over the "
        "table. Intervals, and differences to FlowCut, are in causal.json.",
        _grid(found["agreement_by_type"]["value"], marks=found["agreement_by_type"]["minus_random"]),
        *_kept_by_type(found["kept_by_type"]),
    ]
    return "\n\n".join(parts) + "\n"


def _kept_by_type(by_budget: dict[str, Any]) -> list[str]:
    parts = []
    for tokens, table in by_budget.items():
        parts.append(f"The answer kept at {tokens} tokens, in percent; marked in the same way.")
        parts.append(_grid(table["value"], percent=True, marks=table["minus_random"]))
    return parts


def _how(facts: dict[str, Any], found: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    block = facts["block"]
    which = (
        f"all {ALL_SCENES} held-out scenes (seeds {found['first_seed']} to {found['last_seed']})"
        if found["scenes"] == ALL_SCENES
        else f"{found['scenes']} of the {ALL_SCENES} held-out scenes (seeds {found['first_seed']} to "
        f"{found['last_seed']}, the first in the order of their seeds, so that no result had a say in it)"
    )
    return (
        f"The embedded model (weights {facts['revision']}, {facts['dtype']}, {facts['device']}) on "
        f"{found['questions']} questions about {which}. {100 * found['right']:.1f} % of the full picture's answers "
        f"are right; they are scored right or wrong. Each answer was scored again without each block of {block} x "
        f"{block} patches (every patch as the "
        "unpruned encoder made it). A high correlation says that a criterion ranks high what the answer needs; it says "
        "nothing of how good the answer is. Intervals are 95 % (percentile bootstrap, scenes drawn again with all "
        "their questions); tests flip the signs of scenes. Methods that cut in the language model cut after some "
        f"of its {facts['decoder_layers']} layers: those before read every token, so their budgets buy more than the "
        f"others'. {versions}. Written by `python -m benchmarks.causal`."
    )


def _reach(found: dict[str, Any]) -> str:
    matters, negative = (f"{100 * found[part]:.{digits}f} %" for part, digits in (("matters", 1), ("negative", 0)))
    small = (
        f"In the median question the block that costs most costs {found['largest_fall']:.1g} nats, and the one that "
        f"costs least {found['lowest_fall']:.1g}: {negative} of all drops are negative, the answer is likelier without "
        f"the block. In {matters} of the questions some block costs {MATTERS} nats or more. For most answers no single "
        "block is needed, and to rank all blocks by their drops is to rank very small numbers, some of them rounding."
    )
    return f"{small} {_object_in_words(found['object'])}" if found["object"] else small


def _object_in_words(asked: dict[str, dict[str, float]]) -> str:
    top, area = (cell(asked[name], 100, 1) for name in ("top", "area"))
    return (
        f"The largest drops do know the picture: of the tenth of the blocks with the largest drops {top} % show what "
        f"was asked about, of all blocks {area} % ({asked['top']['n']} questions about an object, whose pixels are "
        "known). Yet a ranking by how much of the object each block shows, the others in an order that is drawn (mean "
        f"of {DRAWS}), agrees with the drops by {cell(asked['agreement'], 1, 3)} only (Spearman, the same questions): "
        "so much a criterion would reach that knew where the object is and nothing else."
    )


def _agreement(table: dict[str, Any], where: dict[str, Any]) -> str:
    value, random, own = (table[part]["all"] for part in ("value", "minus_random", "minus_flowcut"))
    count = max((row["n"] for row in where.values()), default=0)
    head = f"| criterion | Spearman [95 %] | minus random | minus FlowCut | in {count} questions |"
    lines = [head, "|-|-|-|-|-|"]
    for name in sorted(value, key=lambda name: -value[name]["mean"]):
        differences = (cell(part.get(name), 1, 3, signed=True) for part in (random, own))
        cells = (cell(value[name], 1, 3), *differences, cell(where.get(name), 1, 3))
        lines.append(f"| {label(name)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _grid(columns: dict[str, Any], percent: bool = False, marks: dict[str, Any] | None = None) -> str:
    """One row a criterion; with intervals, or with the marks of another table and none."""
    names = list(next(iter(columns.values())))
    lines = [f"| criterion | {' | '.join(columns)} |", "|-" * (len(columns) + 1) + "|"]
    scale, digits = (100, 1) if percent else (1, 2)
    for name in names:
        cells = []
        for column, rows in columns.items():
            if marks is None:
                cells.append(cell(rows[name], scale, digits, signed="holm" in rows[name]))
            else:
                star = "*" if marks[column].get(name, {}).get("holm", 1) < LEVEL else ""
                cells.append(f"{scale * rows[name]['mean']:.{digits}f}{star}")
        lines.append(f"| {label(name)} | {' | '.join(cells)} |")
    if marks is not None:
        counts = [str(max(row["n"] for row in rows.values())) for rows in columns.values()]
        lines.append(f"| (questions) | {' | '.join(counts)} |")
    return "\n".join(lines)


def cell(row: dict[str, float] | None, scale: float, digits: int, signed: bool = False) -> str:
    if row is None:
        return ""
    numbers = [f"{scale * row[part]:{'+' if signed else ''}.{digits}f}" for part in ("mean", "low", "high")]
    star = "*" if row.get("holm", 1) < LEVEL else ""
    return f"{numbers[0]} [{numbers[1]}, {numbers[2]}]{star}"


def label(name: str) -> str:
    return METHODS[name].label if name in METHODS else name
