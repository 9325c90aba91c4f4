"""Do the claims hold on scenes that nobody has seen? Fresh ones are drawn, asked, and set against what is claimed.

    python -m benchmarks.audit                                   # 100 fresh scenes; about four minutes on two cores
    python -m benchmarks.audit --first-seed 7000000 --scenes 300 --workers 2

Every number of training/RESULTS.md is compared as two samples of scenes: the difference of found and claimed with its
95 % interval (each sample of scenes drawn again by itself), and p that both come from the same world (scenes change
sides), Holm-corrected over all numbers. Of many true claims one in twenty is off by chance (p < 0.05); a claim whose
corrected p is below 0.05 does not survive. Few fresh scenes can refute little: the intervals say how much.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from benchmarks import heldout_tables
from benchmarks.heldout_tables import HeldOut
from benchmarks.intervals import LEVEL, Measured, Row, add_holm, summary, two_samples
from training.evaluate import MODEL, examine_all, ways, weights_hash
from training.heldout import FIRST_SEED, N_SCENES, held_out

FRESH_SEED = 600_000
"""Behind the held-out scenes, the validation's and the tests'."""
UNITS = {"tokens": 1.0}
"""By table, what a number is multiplied with; all others are shares, given in percent or points."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--first-seed", type=int, default=FRESH_SEED, help="of the fresh scenes")
    parser.add_argument("--scenes", type=int, default=100)
    parser.add_argument("--workers", type=int, default=1, help="processes, each on one thread")
    parser.add_argument("--model", type=Path, default=MODEL)
    wanted = parser.parse_args()
    check_fresh(wanted.first_seed, wanted.scenes)
    claimed = heldout_tables.read()
    name = f"audit-{weights_hash(wanted.model)}-{wanted.first_seed}-{wanted.scenes}.jsonl"
    growing = heldout_tables.RESULTS.with_name(name)
    questions = held_out(wanted.first_seed, wanted.scenes)
    found = heldout_tables.from_lines(*examine_all(wanted.model, questions, ways(), growing, wanted.workers))
    print(report(claimed, found))


def check_fresh(first_seed: int, n_scenes: int) -> None:
    """Scenes that a claim was made from, or the model chosen by, prove nothing.

    Raises:
        SystemExit: some of them are no fresh ones, or there are too few.
    """
    if n_scenes < 2 or first_seed < 0:
        raise SystemExit(f"Got --first-seed {first_seed} --scenes {n_scenes}: a seed of at least 0, and two scenes.")
    for part, first in FIRST_SEED.items():
        if first_seed < first + N_SCENES and first < first_seed + n_scenes:
            raise SystemExit(
                f"Seeds {first_seed} to {first_seed + n_scenes - 1} are not fresh: the {part} scenes are {first} to "
                f"{first + N_SCENES - 1}. Choose another --first-seed."
            )


def report(claimed: HeldOut, found: HeldOut) -> str:
    """Claimed against found, number by number, and which claims do not survive."""
    pairs = _comparable(claimed, found)
    changes = {name: two_samples(*pair) for name, pair in pairs.items()}
    tested = [
        {label: row for label, row in rows.items() if row["n"] and row["mean"] == row["mean"]}
        for rows in changes.values()
    ]
    add_holm(tested)
    n_scenes = [len(np.unique(one.scene)) for one in (claimed, found)]
    parts = [
        "# Claimed and found",
        f"Claimed: {len(claimed.scene)} questions about {n_scenes[0]} scenes (weights {claimed.facts['weights']}). "
        f"Found: {len(found.scene)} questions about {n_scenes[1]} fresh scenes, seeds {found.scene.min()} to "
        f"{found.scene.max()} (weights {found.facts['weights']}). Intervals are 95 %, scenes resampled.",
    ]
    for name, (first, second) in pairs.items():
        parts += [f"## {name}", _table(summary(first), summary(second), changes[name], UNITS.get(name, 100.0))]
    return "\n\n".join([*parts, "## Verdict", _verdict(changes)])


def _comparable(claimed: HeldOut, found: HeldOut) -> dict[str, tuple[Measured, Measured]]:
    """Both sides of every table that RESULTS.md prints, the types of question that both have."""
    first, second = (heldout_tables.claims(one) for one in (claimed, found))
    printed = heldout_tables.printed_types(claimed)
    pairs = {name: (first[name], second[name]) for name in first if name in printed or "type" not in name}
    return {name: (_named(one, other.names), _named(other, one.names)) for name, (one, other) in pairs.items()}


def _named(measured: Measured, names: list[str]) -> Measured:
    """Those of these names, in its own order."""
    rows = [row for row, name in enumerate(measured.names) if name in names]
    out_of = None if measured.out_of is None else measured.out_of[rows]
    return Measured([measured.names[row] for row in rows], measured.values[rows], measured.scene, out_of)


def _table(claimed: dict[str, Row], found: dict[str, Row], changes: dict[str, Row], unit: float) -> str:
    lines = ["| | claimed [95 %] | found [95 %] | found - claimed [95 %] | p | p, Holm | |", "|-|-|-|-|-|-|-|"]
    for name, change in changes.items():
        numbers = " | ".join((_cell(claimed[name], unit), _cell(found[name], unit), _cell(change, unit, sign="+")))
        p = " | ".join(f"{change[part]:.3f}" if part in change else "" for part in ("p", "holm"))
        lines.append(f"| {name} | {numbers} | {p} | {_survives(change)} |")
    return "\n".join(lines)


def _cell(row: Row, unit: float, sign: str = "") -> str:
    if row["mean"] != row["mean"]:
        return "–"
    return "{} [{}, {}]".format(*(f"{unit * row[part]:{sign}.1f}" for part in ("mean", "low", "high")))


def _survives(change: Row) -> str:
    if "holm" not in change:
        return "nothing to compare"
    if change["holm"] < LEVEL:
        return "DOES NOT SURVIVE"
    return "within" if change["p"] >= LEVEL else "off, as chance may have it"


def _verdict(changes: dict[str, dict[str, Row]]) -> str:
    said = {(table, name): _survives(row) for table, rows in changes.items() for name, row in rows.items()}
    compared = [verdict for verdict in said.values() if verdict != "nothing to compare"]
    missed = sum(verdict != "within" for verdict in compared)
    fallen = [f"- {table}: {name}" for (table, name), verdict in said.items() if verdict == "DOES NOT SURVIVE"]
    first = (
        f"{len(compared)} numbers were compared. {missed} of them ({missed / len(compared):.1%}) are off with p < "
        f"{LEVEL} each; by chance alone up to 5 % are."
    )
    second = (
        f"{len(fallen)} claims do not survive (p < {LEVEL} after Holm's correction over all numbers):"
        if fallen
        else "Every claim survives: no difference is significant after Holm's correction over all numbers."
    )
    return "\n".join([first, second, *fallen])


if __name__ == "__main__":
    main()
