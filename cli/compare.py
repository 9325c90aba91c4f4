"""`flowcut compare`: one question under every method, beside the full picture."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

import numpy as np

from flowcut.criteria import METHODS
from flowcut.cut import CutConfig, cut_from_text
from flowcut_lens.cli.output import say, say_json
from flowcut_lens.cli.studies import add_options, begun, differences, table

if TYPE_CHECKING:
    from flowcut.models.loading import VisionLanguageModel
    from flowcut.records.studies import MethodResult


def add_command(commands: Any) -> None:
    """Add the command to the command line's parser."""
    compare = commands.add_parser("compare", help="one question under every method, beside the full picture")
    compare.set_defaults(run=_compare)
    add_options(compare)
    compare.add_argument(
        "--also", action="append", default=[], metavar="CUT", help="one more cut, for example visionzip:128+fastv:64"
    )


def _compare(wanted: argparse.Namespace) -> int:
    also = [cut_from_text(text) for text in wanted.also]  # refused before torch is loaded
    with begun(wanted) as work:
        full, results, cuts = work.answer(wanted), [], [*work.cuts, *also]
        from flowcut.studies import compare_methods

        compared = compare_methods(work.model, work.picture, wanted.question, full, cuts)
        for done, cut in enumerate(cuts):
            work.progress.report(done / len(cuts), f"Comparing: {_name(cut)}")
            results.append(next(compared))
    refused = _refused(work.model)
    if wanted.json:
        facts = {
            "answer": full.answer,
            "logprob": full.logprob,
            "methods": [_facts(one) for one in results],
            "refused": refused,
            "notes": full.notes,
        }
        say_json(facts)
        return 0
    rows = [("All tokens", full.answer, "", f"{full.logprob:.4f}", ""), *(_row(result) for result in results)]
    listed = table(("method", "answer", "kept?", "ln p of the full answer", "source"), rows)
    reasons = [f"{METHODS[name].label}: {reason}" for name, reason in refused.items()]
    own = dict.fromkeys((cut.label, cut.own_differences) for result in results for cut in result.cut.stages)
    say("\n".join([listed, *reasons, *differences(own), *full.notes]))
    return 0


def _refused(model: VisionLanguageModel) -> dict[str, str]:
    from flowcut.families.support import refusals

    return refusals(model)


def _name(cut: CutConfig) -> str:
    """The method; of two with their budgets."""
    return cut.label if cut.then is None else cut.title


def _source(cut: CutConfig) -> str:
    return "; ".join(METHODS[one.method].source for one in cut.stages)


def _row(result: MethodResult) -> tuple[str, ...]:
    name, source = _name(result.cut), _source(result.cut)
    if result.run is None:
        return (name, result.error or "", "", "", source)
    total = "" if result.logprobs is None else f"{result.logprobs.sum(dtype=np.float64):.4f}"
    return (name, result.run.answer, "kept" if result.exact_match else "changed", total, source)


def _facts(result: MethodResult) -> dict[str, Any]:
    run, second = result.run, result.cut.then
    kept = None if run is None or run.final_patch_ids is None else run.final_patch_ids.tolist()
    return {
        "method": result.cut.method,
        "title": result.cut.title,
        "source": _source(result.cut),
        "differs": result.cut.differs,
        **({} if second is None else {"then": second.as_dict()}),
        "answer": None if run is None else run.answer,
        "exact_match": result.exact_match,
        "logprobs": None if result.logprobs is None else [float(one) for one in result.logprobs],
        "kept_patch_ids": kept,
        "error": result.error,
    }
