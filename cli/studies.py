"""`flowcut compare` and `flowcut causal`: every method beside the full picture, and what the answer truly needs."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Any

import numpy as np

from flowcut.criteria import METHODS
from flowcut.cut import CutConfig
from flowcut.errors import FlowCutError
from flowcut.generation.settings import Generation
from flowcut_lens.cli.progress import Progress

if TYPE_CHECKING:
    from flowcut.media.picture import Picture
    from flowcut.models.loading import VisionLanguageModel
    from flowcut.records.run import Run
    from flowcut.records.studies import KnockOut, MethodResult

WIDEST = 56
"""Characters of a column."""
STRONGEST = 10
"""Blocks that `causal` names."""


def add_commands(commands: Any) -> None:
    """Add the two commands to the command line's parser."""
    compare = commands.add_parser("compare", help="one question under every method, beside the full picture")
    compare.set_defaults(run=_compare)
    causal = commands.add_parser("causal", help="what the answer loses without each block of patches")
    causal.set_defaults(run=_causal)
    for command in (compare, causal):
        command.add_argument("image", metavar="PICTURE", help="a picture's path")
        command.add_argument("question", metavar="QUESTION")
        command.add_argument("--model", default="embedded", help="embedded (default), a folder, or a hub id")
        command.add_argument("--tokens", type=int, default=64, help="visual tokens that each method keeps (default 64)")
        command.add_argument("--seed", type=int, default=0, help="seed of the random method (default 0)")
        command.add_argument("--max-new-tokens", type=int, default=128, help="longest answer, in tokens (default 128)")
        command.add_argument("--system", help="a system prompt, if the model takes one")
        command.add_argument("--device", help="cpu, cuda or mps (default: the best there is)")
        command.add_argument("--json", action="store_true", help="write all numbers to stdout, as JSON")
        command.add_argument("--quiet", action="store_true", help="show no progress on stderr")
    causal.add_argument("--block", type=int, default=2, help="side of the blocks taken away, in patches (default 2)")
    causal.add_argument("--out", type=Path, metavar="FILE", help="keep the arrays there, as safetensors")


def _compare(wanted: argparse.Namespace) -> int:
    with _begun(wanted) as begun:
        full, results = begun.answer(wanted), []
        from flowcut.studies import compare_methods

        compared = compare_methods(begun.model, begun.picture, wanted.question, full, begun.cuts)
        for done, cut in enumerate(begun.cuts):
            begun.progress.report(done / len(begun.cuts), f"Comparing: {METHODS[cut.method].label}")
            results.append(next(compared))
    refused = _refused(begun.model)
    if wanted.json:
        facts = {
            "answer": full.answer,
            "logprob": full.logprob,
            "methods": [_facts(one) for one in results],
            "refused": refused,
        }
        print(json.dumps(facts, ensure_ascii=False, indent=1))
        return 0
    rows = [("All tokens", full.answer, "", f"{full.logprob:.4f}", ""), *(_row(result) for result in results)]
    print(_table(("method", "answer", "kept?", "ln p of the full answer", "source"), rows))
    for name, reason in refused.items():
        print(f"{METHODS[name].label}: {reason}")
    return 0


def _causal(wanted: argparse.Namespace) -> int:
    if wanted.block < 1:
        raise FlowCutError(f"--block is {wanted.block}: it must be at least 1.")
    with _begun(wanted) as begun:
        run = begun.answer(wanted)
        study = _knocked_out(wanted, begun, run.token_ids)
        rankings = _rankings(wanted, begun)
    from flowcut.studies.rank_agreement import spearman

    agreement = {
        name: spearman(ranking, study.block_of_patch, study.logprob_drop) for name, ranking in rankings.items()
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
    print(_table(("ranking", "Spearman with the drop", "source"), rows))
    return 0


@dataclass(frozen=True)
class _Begun:
    """What both commands work with."""

    model: VisionLanguageModel
    picture: Picture
    cuts: list[CutConfig]
    """One of every method that the model allows."""
    settings: Generation
    progress: Progress

    def answer(self, wanted: argparse.Namespace) -> Run:
        """The answer to the full picture."""
        from flowcut.generation.ask import ask

        settings, on_progress = self.settings, self.progress.report_stage
        return ask(self.model, self.picture, wanted.question, settings=settings, record=False, on_progress=on_progress)


@contextmanager
def _begun(wanted: argparse.Namespace) -> Iterator[_Begun]:
    settings = Generation(wanted.max_new_tokens, system=wanted.system)
    CutConfig("random", wanted.tokens, seed=wanted.seed)  # a wrong setting is refused before torch is loaded
    from flowcut.media.picture import open_picture

    picture = open_picture(wanted.image)
    with Progress(wanted.quiet) as progress:
        progress.report(None, "Loading PyTorch")
        from flowcut.models.quiet import quiet_libraries

        quiet_libraries()
        from flowcut.families.support import allowed_cuts, check_budget
        from flowcut.models.loading import load

        model = load(wanted.model, device=wanted.device, progress=progress.report)
        check_budget(model, wanted.tokens)
        yield _Begun(model, picture, allowed_cuts(model, wanted.tokens, [wanted.seed]), settings, progress)


def _knocked_out(wanted: argparse.Namespace, begun: _Begun, answer_ids: Sequence[int]) -> KnockOut:
    from flowcut.studies import knock_out

    arguments = (begun.model, begun.picture, wanted.question, answer_ids, wanted.block)
    for study in knock_out(*arguments, system=wanted.system):
        begun.progress.report(study.done, "Taking blocks away")
    return study


def _rankings(wanted: argparse.Namespace, begun: _Begun) -> dict[str, np.ndarray]:
    """Method name -> float32 [N], what it ranks the patches by, of the methods that rank them."""
    from flowcut.studies import rank_patches

    ranked = rank_patches(begun.model, begun.picture, wanted.question, begun.cuts, system=wanted.system)
    rankings = {}
    for done, cut in enumerate(begun.cuts):
        begun.progress.report(done / len(begun.cuts), f"Ranking patches: {METHODS[cut.method].label}")
        ranking = next(ranked).ranking
        if ranking is not None:
            rankings[cut.method] = ranking
    return rankings


def _refused(model: VisionLanguageModel) -> dict[str, str]:
    from flowcut.families.support import refusals

    return refusals(model)


def _row(result: MethodResult) -> tuple[str, ...]:
    method = METHODS[result.cut.method]
    if result.run is None:
        return (method.label, result.error or "", "", "", method.source)
    total = "" if result.logprobs is None else f"{result.logprobs.sum(dtype=np.float64):.4f}"
    return (method.label, result.run.answer, "kept" if result.exact_match else "changed", total, method.source)


def _facts(result: MethodResult) -> dict[str, Any]:
    method, run = METHODS[result.cut.method], result.run
    kept = None if run is None or run.final_patch_ids is None else run.final_patch_ids.tolist()
    return {
        "method": result.cut.method,
        "title": result.cut.title,
        "source": method.source,
        "answer": None if run is None else run.answer,
        "exact_match": result.exact_match,
        "logprobs": None if result.logprobs is None else [float(one) for one in result.logprobs],
        "kept_patch_ids": kept,
        "error": result.error,
    }


def _strongest(study: KnockOut) -> str:
    """The blocks without which the answer's log-prob drops most, by their place on the grid of blocks."""
    across = -(-study.grid_cols // study.block)
    order = np.argsort(-study.logprob_drop, kind="stable")[:STRONGEST]
    rows = [(f"row {one // across + 1}, column {one % across + 1}", f"{study.logprob_drop[one]:+.4f}") for one in order]
    size = f"{study.block} x {study.block} patches" if study.block > 1 else "patch"
    return _table((f"block ({size})", "drop of ln p without it"), rows)


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


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Columns of equal width, two spaces apart; what is too wide for its column is cut short, but for the last one."""
    cells = [[*(shorten(cell, WIDEST, placeholder=" ...") for cell in row[:-1]), row[-1]] for row in (head, *rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]
    return "\n".join(lines)
