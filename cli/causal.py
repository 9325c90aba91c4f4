"""`flowcut causal`: what the answer truly needs, by one of three readings, beside what each method ranks highest."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from flowcut.criteria import METHODS
from flowcut.criteria.positions import POSITIONS
from flowcut.errors import FlowCutError
from flowcut_lens.cli.output import check_out, say, say_json
from flowcut_lens.cli.studies import Begun, add_options, begun, table

if TYPE_CHECKING:
    from flowcut.records.run import Run
    from flowcut.records.studies import KnockOut, ObjectKnockOut, SubsetEffects

STRONGEST = 10
"""Blocks that are named."""
READINGS = {
    "subsets": "what each block adds among random sets of --tokens (default)",
    "blocks": "what the full picture's answer loses without each block alone",
    "objects": "what it loses without each object; give pictures without one by --without",
}
CAN_SEE = {
    "subsets": "Random sets of the budget's size: sees what carries the answer where methods cut. Blocks that stand in "
    "for each other share what they add.",
    "blocks": "One block taken from the full picture: others stand in for nearly every block, so that most effects are "
    "close to none. Of each the absolute change counts.",
    "objects": "Sees whether an object is needed; says nothing of where inside it the answer is read.",
}


def add_command(commands: Any) -> None:
    """Add the command to the command line's parser."""
    causal = commands.add_parser("causal", help="which blocks or objects the answer needs")
    causal.set_defaults(run=_causal)
    add_options(causal)
    said = "; ".join(f"{name}: {what}" for name, what in READINGS.items())
    causal.add_argument("--reading", choices=list(READINGS), default="subsets", help=said)
    causal.add_argument("--block", type=int, default=2, help="side of the blocks, in patches (default 2)")
    causal.add_argument("--sets", type=int, default=6400, help="subsets: the most random sets (default 6400)")
    causal.add_argument("--mixed-sizes", action="store_true", help="subsets: also smaller and larger sets")
    causal.add_argument(
        "--without",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE",
        help="objects: the picture without an object, each",
    )
    causal.add_argument(
        "--positions", choices=list(POSITIONS), default="kept", help="of the tokens that stay (default kept)"
    )
    causal.add_argument("--out", type=Path, metavar="FILE", help="keep the arrays there, as safetensors")


def _causal(wanted: argparse.Namespace) -> int:
    _check(wanted)
    with begun(wanted) as work:
        run = work.answer(wanted)
        facts = {"answer": run.answer, "reading": wanted.reading, "positions": wanted.positions}
        if wanted.reading == "objects":
            objects = list(_objects(wanted, work, run))
            found, arrays, said = _of_objects(objects)
        else:
            study = _subsets(wanted, work, run) if wanted.reading == "subsets" else _blocks(wanted, work, run)
            found, arrays, said = _of_blocks(study, _rankings(wanted, work))
    try:
        if wanted.out is not None:
            _keep(arrays, facts, wanted.out)
    finally:  # where the file cannot be written, what was found is not lost too
        if wanted.json:
            say_json({**facts, **found})
        else:
            say(f"{run.answer}\n{said}\nPositions {wanted.positions}. {CAN_SEE[wanted.reading]}")
    return 0


def _check(wanted: argparse.Namespace) -> None:
    if wanted.block < 1:
        raise FlowCutError(f"--block is {wanted.block}: it must be at least 1.")
    if (wanted.reading == "objects") != bool(wanted.without):
        raise FlowCutError(
            "--reading objects and --without FILE come together: give the picture without an object, one for each."
        )
    check_out(None if wanted.out is None else wanted.out.parent)
    if wanted.out is not None and wanted.out.is_dir():
        raise FlowCutError(f"--out is {wanted.out}, which is a folder: give a file, new or old.")


def _subsets(wanted: argparse.Namespace, work: Begun, run: Run) -> SubsetEffects:
    from flowcut.studies import sampled_subsets

    arguments = (work.model, work.picture, wanted.question, run.token_ids, wanted.tokens, wanted.block)
    options = {"mixed_sizes": wanted.mixed_sizes, "most_sets": wanted.sets, "seed": wanted.seed}
    for study in sampled_subsets(*arguments, system=wanted.system, positions=wanted.positions, **options):
        work.progress.report(study.done, f"Reading random sets: reliability {study.reliability:.2f}")
    return study


def _blocks(wanted: argparse.Namespace, work: Begun, run: Run) -> KnockOut:
    from flowcut.studies import knock_out

    arguments = (work.model, work.picture, wanted.question, run.token_ids, wanted.block)
    for study in knock_out(*arguments, system=wanted.system, positions=wanted.positions):
        work.progress.report(study.done, "Taking blocks away")
    return study


def _objects(wanted: argparse.Namespace, work: Begun, run: Run) -> Iterator[ObjectKnockOut]:
    from flowcut.generation.medium import geometries
    from flowcut.media.picture import open_picture
    from flowcut.studies import knock_out_objects
    from flowcut_lens.analysis.objects import changed_patches

    (geometry, *_), objects = geometries(work.model, work.picture), {}
    for file in wanted.without:
        bare = open_picture(file)
        with _said_of(file):
            whole, changed = (np.asarray(one.image.convert("RGB")) for one in (work.picture, bare))
            objects[str(file)] = (bare, changed_patches(whole, changed, geometry))
    arguments = (work.model, work.picture, wanted.question, run.token_ids, objects)
    knocked = knock_out_objects(*arguments, settings=work.settings, positions=wanted.positions)
    for done, one in enumerate(knocked, 1):
        work.progress.report(done / len(objects), "Taking objects away")
        yield one


@contextmanager
def _said_of(file: Path) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise FlowCutError(f"{file} cannot be compared with the picture. {error}") from error


def _rankings(wanted: argparse.Namespace, work: Begun) -> dict[str, np.ndarray]:
    """Method name -> float32 [N], what it ranks the patches by, of the methods that rank them."""
    from flowcut.studies import rank_patches

    ranked = rank_patches(work.model, work.picture, wanted.question, work.cuts, system=wanted.system)
    rankings = {}
    for done, cut in enumerate(work.cuts):
        work.progress.report(done / len(work.cuts), f"Ranking patches: {METHODS[cut.method].label}")
        ranking = next(ranked).ranking
        if ranking is not None:
            rankings[cut.method] = ranking
    return rankings


Found = tuple[dict[str, Any], dict[str, np.ndarray], str]
"""What a reading found: for JSON, as arrays, and in words."""


def _of_blocks(study: SubsetEffects | KnockOut, rankings: Mapping[str, np.ndarray]) -> Found:
    from flowcut_lens.analysis.agreement import row_spearman
    from flowcut_lens.analysis.causal import block_mean, needed

    effect = needed(study)
    agreement = {
        name: float(row_spearman(block_mean(ranking, study.block_of_patch), effect))
        for name, ranking in rankings.items()
    }
    facts, arrays, head = _facts(study)
    spearman = {name: None if np.isnan(value) else value for name, value in agreement.items()}
    ranked = {f"ranking.{name}": np.ascontiguousarray(ranking) for name, ranking in rankings.items()}
    strongest_first = sorted(agreement.items(), key=lambda pair: -np.nan_to_num(pair[1], nan=-2))
    rows = [(METHODS[name].label, f"{value:+.3f}", METHODS[name].source) for name, value in strongest_first]
    said = "\n".join([head, _strongest(study, effect), table(("ranking", "Spearman with it", "source"), rows)])
    return {**facts, "spearman": spearman}, {**arrays, "block_of_patch": study.block_of_patch, **ranked}, said


def _facts(study: SubsetEffects | KnockOut) -> Found:
    """What is particular to a reading."""
    from flowcut.records.studies import KnockOut

    numbers: dict[str, Any] = {"full": study.full, "no_image": study.no_image, "block": study.block}
    if isinstance(study, KnockOut):
        arrays = {"without": study.without, "insertion": study.insertion, "logprob_drop": study.logprob_drop}
        head = f"ln p {study.full:.4f} with the full picture, {study.no_image:.4f} with no image"
        return {**numbers, **{name: array.tolist() for name, array in arrays.items()}}, arrays, head
    facts = {"sets": study.sets, "sizes": list(study.sizes), "exact_match": study.exact_match}
    facts |= {name: _number(getattr(study, name)) for name in ("half_agreement", "reliability", "explained")}
    head = (
        f"log-odds {study.full:.2f} with the full picture, {study.no_image:.2f} with no image; {study.sets} random "
        f"sets of {', '.join(map(str, study.sizes))} blocks, {study.exact_match:.0%} keep the answer; reliability "
        f"{study.reliability:.2f}" + ("" if study.settled else " (0.6 was not reached: take more --sets)")
    )
    return {**numbers, **facts, "effect": study.effect.tolist()}, {"effect": study.effect}, head


def _number(value: float) -> float | None:
    return None if np.isnan(value) else value


def _strongest(study: SubsetEffects | KnockOut, effect: np.ndarray) -> str:
    """The blocks of the largest effects, by their place on the grid of blocks."""
    across = -(-study.grid_cols // study.block)
    order = np.argsort(-effect, kind="stable")[:STRONGEST]
    rows = [(f"row {one // across + 1}, column {one % across + 1}", f"{effect[one]:+.4f}") for one in order]
    size = f"{study.block} x {study.block} patches" if study.block > 1 else "patch"
    return table((f"block ({size})", "effect"), rows)


def _of_objects(objects: list[ObjectKnockOut]) -> Found:
    rows, facts = [], []
    for one in objects:
        picture, patches = one.full - one.without_object, one.full - one.without_patches
        facts.append(
            {"name": one.name, "answer_without": one.answer, "needed": bool(one.flips_without_object),
             "flips_without_patches": bool(one.flips_without_patches), "drop_without_object": picture,
             "drop_without_patches": patches, "patch_ids": one.patch_ids.tolist()}
        )  # fmt: skip
        flips = ["another answer" if flip else "same" for flip in (one.flips_without_object, one.flips_without_patches)]
        rows.append((one.name, f"{picture:+.2f}", flips[0], f"{patches:+.2f}", flips[1], one.answer))
    head = ("without", "log-odds lost", "", "without its patches", "", "answer without it")
    arrays = {f"patch_ids.{place}": one.patch_ids for place, one in enumerate(objects)}
    return {"objects": facts}, arrays, table(head, rows)


def _keep(arrays: Mapping[str, np.ndarray], facts: Mapping[str, Any], file: Path) -> None:
    """The arrays of the study, and each ranking by its method's name."""
    from safetensors.numpy import save_file

    try:
        save_file(dict(arrays), file, {name: str(fact) for name, fact in facts.items()})
    except Exception as error:  # safetensors has a kind of its own for files that cannot be written
        raise FlowCutError(f"The arrays cannot be written to {file}: give another --out.") from error
