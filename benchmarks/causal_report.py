"""The page of benchmarks/causal.py: what answers need, which criterion ranks it first, and how far that can be trusted.

The four questions of a scene are not independent of each other: scenes, not questions, are drawn again for the 95 %
intervals, and scenes change sign in the tests, which are Holm-corrected over their table (see causal_tables).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from benchmarks.causal_tables import ALL_SCENES, cell, label, rounded
from benchmarks.intervals import LEVEL, Measured, add_holm, summary
from flowcut.criteria import METHODS
from flowcut.criteria.stages import DECODER
from flowcut.studies.subset_effects import full_length
from flowcut_lens.analysis.causal import DRAWS, in_drawn_order
from flowcut_lens.analysis.truth import patch_coverage
from flowcut_lens.scenes import about, draw

READINGS = {"subsets": "random sets", "mixed": "mixed sizes", "single": "single blocks"}
VALIDITY_AT = ("64", "16")
"""Budgets at which answers kept are held against the readings."""
TRUTH = "asked object"
NULL = "random"

Question = dict[str, Any]


def write_tables(facts: dict[str, Any], lines: list[dict[str, Any]], folder: Path) -> str:
    """causal.json and causal.md in a folder; returns the latter's text."""
    found = study([with_truth(line) for line in lines], facts["budgets"])
    text = as_text(facts, found)
    (folder / "causal.json").write_text(json.dumps({"facts": facts, **rounded(found)}, indent=1) + "\n")
    (folder / "causal.md").write_text(text)
    return text


def with_truth(line: dict[str, Any]) -> dict[str, Any]:
    """A line of the results, each question with the share of each block's pixels that shows what it asks about."""
    from benchmarks.causal_scene import scene_geometry

    scene, questions = draw(line["seed"]), []
    for question in line["questions"]:
        asked = about(scene, question["question"])
        cols = round(len(question["subsets"]["effect"]) ** 0.5)
        shown = patch_coverage(scene.object_mask(asked), scene_geometry(scene, cols)) if asked else None
        questions.append({**question, "object": shown})
    return {**line, "questions": questions}


def study(lines: list[dict[str, Any]], budgets: Sequence[int]) -> dict[str, Any]:
    """All numbers of the tables."""
    questions = [question for line in lines for question in line["questions"]]
    scene = np.array([line["seed"] for line in lines for _ in line["questions"]])
    agreement = {reading: _agreement(questions, scene, reading) for reading in READINGS}
    kept = {str(tokens): _kept(questions, scene, str(tokens)) for tokens in budgets}
    return {
        "agreement": {reading: against_chance(measured) for reading, measured in agreement.items()},
        "reliability": {reading: _reliability(questions, reading) for reading in ("subsets", "mixed")},
        "validity": {reading: _validity(measured, kept) for reading, measured in agreement.items()},
        "effects": _effects(questions),
        "objects": _objects(questions, scene),
        "objects_kept": _objects_kept(questions, scene),
        "kept": {tokens: against_chance(measured) for tokens, measured in kept.items()},
        "positions": {str(tokens): _positions(questions, scene, str(tokens)) for tokens in budgets},
        "cpu": {name: float(np.mean([line["cpu"][name] for line in lines])) for name in lines[0]["cpu"]},
        "right": float(np.mean([question["right"] for question in questions])),
        "questions": len(questions),
        "scenes": len(lines),
        "first_seed": int(scene.min()),
        "last_seed": int(scene.max()),
    }


def _collect(names: Sequence[str], rows: list[dict[str, Any]], scene: np.ndarray) -> Measured:
    """One number for each name and question; NaN where there is none."""
    values = [[np.nan if (value := row.get(name)) is None else value for row in rows] for name in names]
    return Measured(list(names), np.array(values, dtype=float), scene)


def _agreement(questions: list[Question], scene: np.ndarray, reading: str) -> Measured:
    """Spearman of each criterion, of the fresh random rankings, and of the object that is asked about."""
    rows = []
    for place, question in enumerate(questions):
        found = question[reading]
        effect = np.abs(found["effect"]) if reading == "single" else np.asarray(found["effect"])
        rows.append({**found["spearman"], TRUTH: _of_truth(question["object"], effect, place)})
    names = [name for name in rows[0] if name not in (NULL, TRUTH)]
    return _collect([*names, TRUTH, NULL], rows, scene)


def _of_truth(shown: np.ndarray | None, effect: np.ndarray, seed: int) -> float | None:
    """Of a ranking that knows the object and nothing else; the rest is in an order that is drawn."""
    if shown is None or not np.any(shown) or np.ptp(effect) == 0:
        return None
    drawn = in_drawn_order(shown, np.random.default_rng(seed).random((DRAWS, len(effect))))
    return float(np.mean([spearmanr(ranks, effect).statistic for ranks in drawn]))


def against_chance(measured: Measured) -> dict[str, dict[str, float]]:
    """By criterion its mean with interval, and `holm`: p of its difference to the random one, Holm-corrected."""
    found, less = summary(measured), summary(measured.minus(NULL))
    add_holm([less])
    for name, row in less.items():
        found[name] |= {"minus": row["mean"], "holm": row["holm"]}
    return found


def _kept(questions: list[Question], scene: np.ndarray, tokens: str) -> Measured:
    """Whether answers are kept, with the positions of each method's release."""
    rows = [
        {name: own[next(iter(own))][tokens] for name, own in question["kept"].items() if own} for question in questions
    ]
    return _collect([*(name for name in rows[0] if name != NULL), NULL], rows, scene)


def _reliability(questions: list[Question], reading: str) -> dict[str, float]:
    """The mean agreement of two halves, what it says of all sets, and what else is known of the estimates."""
    halves = np.array([question[reading]["half"] for question in questions], dtype=float)
    half = float(np.nanmean(halves))
    parts = {
        part: float(np.mean([question[reading][part] for question in questions])) for part in ("explained", "exact")
    }
    return {"half": half, "reliability": float(full_length(half)), **parts}


def _validity(agreement: Measured, kept: dict[str, Measured]) -> dict[str, float]:
    """By budget: across criteria, Spearman between the mean agreement and the mean share of answers kept."""
    found = {}
    for tokens in VALIDITY_AT:
        names = [name for name in agreement.names if name in kept[tokens].names]
        scores, answers = (
            [float(np.nanmean(one.values[one.names.index(name)])) for name in names]
            for one in (agreement, kept[tokens])
        )
        found[tokens] = float(spearmanr(scores, answers).statistic) if len(names) > 2 else float("nan")
    return found


def _effects(questions: list[Question]) -> dict[str, float]:
    """How far single blocks and blocks in sets separate the object asked about from the rest of the picture."""
    found = {}
    for reading in READINGS:
        shown, rest = [], []
        for question in questions:
            if question["object"] is not None and np.any(question["object"]):
                on, effect = np.asarray(question["object"]) > 0, np.abs(question[reading]["effect"])
                shown.append(effect[on].mean())
                rest.append(effect[~on].mean())
        found[reading] = float(np.sum(shown) / np.sum(rest)) if np.sum(rest) else float("nan")
    return found


OBJECT_NUMBERS: dict[str, Callable[[dict[str, Any]], float]] = {
    "flips, never painted": lambda one: one["picture"][1],
    "flips, patches left out": lambda one: one["tokens"][1],
    "log-odds lost, never painted": lambda one: one["picture"][0],
    "log-odds lost, patches left out": lambda one: one["tokens"][0],
}


def _objects(questions: list[Question], scene: np.ndarray) -> dict[str, Any]:
    """Of the objects asked about and of the others: flips and log-odds, mean over questions, and their difference."""
    groups = {group: [_mean_of(question, group) for question in questions] for group in ("asked", "other")}
    measured = {group: _collect(list(OBJECT_NUMBERS), rows, scene) for group, rows in groups.items()}
    apart = Measured(list(OBJECT_NUMBERS), measured["asked"].values - measured["other"].values, scene)
    found = {**{group: summary(one) for group, one in measured.items()}, "difference": _tested(apart)}
    return {**found, "needed": float(np.mean([any(one["picture"][1] for one in q["objects"]) for q in questions]))}


def _mean_of(question: Question, group: str) -> dict[str, float]:
    chosen = [one for one in question["objects"] if one["asked"] == (group == "asked")]
    return {name: float(np.mean([read(one) for one in chosen])) for name, read in OBJECT_NUMBERS.items() if chosen}


def _objects_kept(questions: list[Question], scene: np.ndarray) -> dict[str, Any]:
    """By criterion: the share that it keeps of needed objects and of the others of the picture, and how they differ.

    Needed is an object without which, never painted, the answer is another. Only questions that need some objects of
    their picture and not all count towards the difference.
    """
    names = list(next(one["kept"] for question in questions for one in question["objects"]))
    groups: dict[str, list[dict[str, float]]] = {"needed": [], "other": []}
    for question in questions:
        for group, rows in groups.items():
            chosen = [one["kept"] for one in question["objects"] if bool(one["picture"][1]) == (group == "needed")]
            rows.append({name: float(np.mean([one[name] for one in chosen])) for name in names if chosen})
    measured = {group: _collect(names, rows, scene) for group, rows in groups.items()}
    apart = Measured(names, measured["needed"].values - measured["other"].values, scene)
    return {**{group: summary(one) for group, one in measured.items()}, "difference": _tested(apart)}


def _positions(questions: list[Question], scene: np.ndarray, tokens: str) -> dict[str, Any]:
    """By criterion with both positions: answers kept with each, and the difference, kept less renumbered."""
    names = [name for name, own in questions[0]["kept"].items() if len(own) == 2]
    sides = {
        positions: _collect(
            names, [{name: q["kept"][name][positions][tokens] for name in names} for q in questions], scene
        )
        for positions in ("renumbered", "kept")
    }
    apart = Measured(names, sides["kept"].values - sides["renumbered"].values, scene)
    means = {positions: one.values.mean(axis=1) for positions, one in sides.items()}
    means["changed"] = np.abs(apart.values).mean(axis=1)
    return {
        name: {**{part: float(values[place]) for part, values in means.items()}, "difference": row}
        for place, (name, row) in enumerate(_tested(apart).items())
    }


def _tested(measured: Measured) -> dict[str, dict[str, float]]:
    """Means and intervals, with Holm-corrected p of a mean of zero."""
    found = summary(measured)
    add_holm([found])
    return found


def as_text(facts: dict[str, Any], found: dict[str, Any]) -> str:
    """The page in Markdown."""
    parts = [
        "# What do answers need, and which criterion ranks that first?",
        _how(facts, found),
        "## What blocks add, and who ranks it first",
        _trust(facts, found),
        _agreement_table(found),
        "Validity: across criteria, Spearman's correlation between this table and the share of answers kept.",
        _validity_table(found["validity"]),
        *_warning(found["validity"]["subsets"]),
        "## Whole objects",
        _objects_text(found["objects"]),
        _objects_table(found["objects"]),
        _kept_text(found["objects_kept"]),
        _objects_kept_table(found["objects_kept"]),
        "## The answer kept, by budget",
        "Share of questions, in percent, whose answer under the cut is that of the full picture, token for token "
        f"(greedy decoding), with the positions of each method's release; random: mean of {facts['seeds']} seeds. * : "
        "differs "
        "from random, p < 0.05 after Holm's correction over the column.",
        _kept_table(found["kept"]),
        "## What positions alone change",
        "Answers kept in percent, positions renumbered and kept, and in brackets the share of answers that differ. * : "
        "the two differ, p < 0.05 after Holm's correction over the column. FastV's and DART's releases keep positions, "
        "all others renumber.",
        _positions_table(found["positions"]),
    ]
    return "\n\n".join(parts) + "\n"


def _how(facts: dict[str, Any], found: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    which = "all held-out scenes" if found["scenes"] == ALL_SCENES else f"{found['scenes']} scenes"
    cpu = ", ".join(f"{name} {seconds:.0f}" for name, seconds in found["cpu"].items())
    return (
        f"The embedded model (weights {facts['revision']}, {facts['dtype']}, {facts['device']}) on "
        f"{found['questions']} questions about {which} (seeds {found['first_seed']} to {found['last_seed']}); "
        f"{100 * found['right']:.1f} % of the full picture's answers are right, and they are scored right or wrong. "
        "All tokens that stay have the positions of the full prompt. Intervals are 95 % (percentile bootstrap, "
        "scenes drawn again with all their questions); tests flip the signs of scenes. Every token was made by a "
        "vision encoder that saw the whole picture. Methods that cut in the language model cut after some of its "
        f"{facts['decoder_layers']} layers: those before read every token, so their budgets buy more than the "
        f"others'. {_set_apart(facts)}CPU seconds a scene: {cpu}. {versions}. Written by "
        "`python -m benchmarks.causal`."
    )


def _set_apart(facts: dict[str, Any]) -> str:
    """Which variant and settings each method was run with; results of before there were any say nothing of them."""
    named = [f"{label(name)} {said}" for name, said in facts.get("set_apart", {}).items() if said]
    return f"Variants and settings: {'; '.join(named)}. " if named else ""


def _trust(facts: dict[str, Any], found: dict[str, Any]) -> str:
    subsets, mixed, apart = found["reliability"]["subsets"], found["reliability"]["mixed"], found["effects"]
    return (
        f"Random sets: {facts['sets']} sets of {round(facts['ranked_at'] / facts['block'] ** 2)} blocks of "
        f"{facts['block']} x {facts['block']} patches a question; the log-odds of the full answer regressed on which "
        "blocks are there (ridge, generalised cross-validation). Two halves of the sets agree by "
        f"{subsets['half']:.2f} (Spearman), which makes a reliability of {subsets['reliability']:.2f} of all of them; "
        f"single blocks foresee {100 * subsets['explained']:.0f} % of how sets differ, and "
        f"{100 * subsets['exact']:.0f} % of the sets keep the answer. Mixed sizes: {facts['mixed_sets']} sets, "
        f"reliability {mixed['reliability']:.2f}. Single blocks: the absolute change of the log-odds when a block "
        "alone is taken from the full picture, where others stand in for nearly every block; whether so small a "
        "change helps or hurts says nothing of need. Blocks that show the object asked about matter more than the "
        f"rest by a factor of {apart['subsets']:.1f} in random sets, and of {apart['single']:.1f} alone. The table: "
        f"Spearman's correlation between a criterion's ranking (asked for {facts['ranked_at']} tokens, mean rank of a "
        f"block's patches) and what blocks add, mean over questions. The null is {facts['fresh']} fresh random "
        f"rankings a question; * : differs from it, p < {LEVEL} after Holm's correction over the column. “{TRUTH}”: a "
        "ranking that knows where it is and nothing else."
    )


def _agreement_table(found: dict[str, Any]) -> str:
    tables = found["agreement"]
    names = sorted(tables["subsets"], key=lambda name: -np.nan_to_num(tables["subsets"][name]["mean"], nan=-2))
    rows = [
        f"| {label(name)} | {' | '.join(cell(tables[one].get(name), 1, 3) for one in READINGS)} |" for name in names
    ]
    return "\n".join([f"| criterion | {' | '.join(READINGS.values())} |", "|-" * 4 + "|", *rows])


def _validity_table(validity: dict[str, dict[str, float]]) -> str:
    rows = [
        f"| {READINGS[reading]} | {' | '.join(f'{of[tokens]:+.2f}' for tokens in VALIDITY_AT)} |"
        for reading, of in validity.items()
    ]
    return "\n".join([f"| reading | {' | '.join(f'at {one} tokens' for one in VALIDITY_AT)} |", "|-|-|-|", *rows])


def _warning(validity: dict[str, float]) -> list[str]:
    wrong = [tokens for tokens in VALIDITY_AT if not validity[tokens] > 0]
    if not wrong:
        return []
    return [
        f"**Warning: at {' and '.join(wrong)} tokens the check does not go with the answers kept; do not rely on it.**"
    ]


def _objects_text(objects: dict[str, Any]) -> str:
    return (
        "Every scene was drawn again without each of its objects (same random numbers, the object not painted), "
        "encoded and asked again; and the object's patches were kept from the language model. Flips in percent of "
        "objects, and log-odds of the full answer lost; mean over questions. * : asked about and others differ, p < "
        f"0.05 after Holm's correction over the table. In {100 * objects['needed']:.0f} % of the questions some "
        "object is needed: never painted, the answer is another."
    )


def _objects_table(objects: dict[str, Any]) -> str:
    rows = []
    for name in OBJECT_NUMBERS:
        scale, digits = (100, 1) if name.startswith("flips") else (1, 2)
        cells = [
            cell(objects[part][name], scale, digits, signed=part == "difference")
            for part in ("asked", "other", "difference")
        ]
        rows.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(["| | asked about | others | difference |", "|-|-|-|-|", *rows])


def _kept_text(kept: dict[str, Any]) -> str:
    blind = [name for name in kept["difference"] if METHODS[name].cuts_at is not DECODER]
    cannot = [label(name) for name in blind if not kept["difference"][name]["holm"] < LEVEL]
    said = (
        f" Of those that never see the question, {', '.join(cannot)} cannot tell needed objects from the others."
        if cannot
        else " Even those that never see the question keep more or less of them: what people ask about stands out."
    )
    return (
        "How much of an object's pixels each criterion keeps, in percent: of objects that are needed, and of the "
        "others of the same picture. Methods that cut in the language model see the question, all others are blind "
        f"to it. * : differs from 0, p < 0.05 after Holm's correction over the column.{said}"
    )


def _objects_kept_table(kept: dict[str, Any]) -> str:
    rows = []
    names = sorted(kept["needed"], key=lambda name: -kept["needed"][name]["mean"])
    for name in names:
        sees = "yes" if METHODS[name].cuts_at is DECODER else "no"
        cells = [
            cell(kept[part][name], 100, 1, signed=part == "difference") for part in ("needed", "other", "difference")
        ]
        rows.append(f"| {label(name)} | {sees} | {' | '.join(cells)} |")
    return "\n".join(["| criterion | sees the question | needed | others | difference |", "|-|-|-|-|-|", *rows])


def _kept_table(kept: dict[str, dict[str, Any]]) -> str:
    names = list(next(iter(kept.values())))
    rows = [f"| {label(name)} | {' | '.join(cell(rows[name], 100, 1) for rows in kept.values())} |" for name in names]
    return "\n".join([f"| criterion | {' | '.join(kept)} |", "|-" * (len(kept) + 1) + "|", *rows])


def _positions_table(positions: dict[str, dict[str, Any]]) -> str:
    rows = []
    for name in next(iter(positions.values())):
        cells = []
        for of in positions.values():
            one, star = of[name], "*" if of[name]["difference"]["holm"] < LEVEL else ""
            cells.append(f"{100 * one['renumbered']:.1f} → {100 * one['kept']:.1f}{star} ({100 * one['changed']:.1f})")
        rows.append(f"| {label(name)} | {' | '.join(cells)} |")
    return "\n".join([f"| criterion | {' | '.join(positions)} |", "|-" * (len(positions) + 1) + "|", *rows])
