"""`flowcut causal`: what the answer truly needs, beside what each method ranks highest."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from flowcut.criteria import METHODS
from flowcut.errors import FlowCutError
from flowcut_lens.cli.studies import Begun, add_options, begun, table

if TYPE_CHECKING:
    from flowcut.records.studies import KnockOut

STRONGEST = 10
"""Blocks that `causal` names."""


def add_command(commands: Any) -> None:
    """Add the command to the command line's parser."""
    causal = commands.add_parser("causal", help="what the answer loses without each block of patches")
    causal.set_defaults(run=_causal)
    add_options(causal)
    causal.add_argument("--block", type=int, default=2, help="side of the blocks taken away, in patches (default 2)")
    causal.add_argument("--out", type=Path, metavar="FILE", help="keep the arrays there, as safetensors")


def _causal(wanted: argparse.Namespace) -> int:
    if wanted.block < 1:
        raise FlowCutError(f"--block is {wanted.block}: it must be at least 1.")
    with begun(wanted) as work:
        run = work.answer(wanted)
        study = _knocked_out(wanted, work, run.token_ids)
        rankings = _rankings(wanted, work)
    from flowcut_lens.analysis.agreement import row_spearman
    from flowcut_lens.analysis.causal import block_mean

    agreement = {
        name: float(row_spearman(block_mean(ranking, study.block_of_patch), study.logprob_drop))
        for name, ranking in rankings.items()
    }
    if wanted.out is not None:
        _keep(study, rankings, wanted.out)
    if wanted.json:
        print(json.dumps(_causal_facts(run.answer, study, agreement), ensure_ascii=False, indent=1))
        return 0
    print(f"{run.answer}\nln p {study.full:.4f} with the full picture, {study.no_image:.4f} with no image")
    print(_strongest(study))
    strongest_first = sorted(agreement.items(), key=lambda pair: -np.nan_to_num(pair[1], nan=-2))
    rows = [(METHODS[name].label, f"{value:+.3f}", METHODS[name].source) for name, value in strongest_first]
    print(table(("ranking", "Spearman with the drop", "source"), rows))
    return 0


def _knocked_out(wanted: argparse.Namespace, work: Begun, answer_ids: Sequence[int]) -> KnockOut:
    from flowcut.studies import knock_out

    arguments = (work.model, work.picture, wanted.question, answer_ids, wanted.block)
    for study in knock_out(*arguments, system=wanted.system):
        work.progress.report(study.done, "Taking blocks away")
    return study


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


def _strongest(study: KnockOut) -> str:
    """The blocks without which the answer's log-prob drops most, by their place on the grid of blocks."""
    across = -(-study.grid_cols // study.block)
    order = np.argsort(-study.logprob_drop, kind="stable")[:STRONGEST]
    rows = [(f"row {one // across + 1}, column {one % across + 1}", f"{study.logprob_drop[one]:+.4f}") for one in order]
    size = f"{study.block} x {study.block} patches" if study.block > 1 else "patch"
    return table((f"block ({size})", "drop of ln p without it"), rows)


def _causal_facts(answer: str, study: KnockOut, agreement: dict[str, float]) -> dict[str, Any]:
    return {
        "answer": answer,
        "full": study.full,
        "no_image": study.no_image,
        "block": study.block,
        "logprob_drop": study.logprob_drop.tolist(),
        "insertion": study.insertion.tolist(),
        "spearman": {name: None if np.isnan(value) else value for name, value in agreement.items()},
    }


def _keep(study: KnockOut, rankings: dict[str, np.ndarray], file: Path) -> None:
    """The arrays of the study, and each ranking by its method's name."""
    from safetensors.numpy import save_file

    arrays = {
        "block_of_patch": study.block_of_patch,
        "without": study.without,
        "insertion": study.insertion,
        "logprob_drop": study.logprob_drop,
    }
    named = {f"ranking.{name}": np.ascontiguousarray(ranking) for name, ranking in rankings.items()}
    try:
        save_file({**arrays, **named}, file, {"full": repr(study.full), "no_image": repr(study.no_image)})
    except Exception as error:  # safetensors has a kind of its own for files that cannot be written
        raise FlowCutError(f"The arrays cannot be written to {file}: give another --out.") from error
