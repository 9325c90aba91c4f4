"""`flowcut compare`: one question under every method, beside the full picture."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

import numpy as np

from flowcut.criteria import METHODS
from flowcut_lens.cli.studies import add_options, begun, print_differences, table

if TYPE_CHECKING:
    from flowcut.models.loading import VisionLanguageModel
    from flowcut.records.studies import MethodResult


def add_command(commands: Any) -> None:
    """Add the command to the command line's parser."""
    compare = commands.add_parser("compare", help="one question under every method, beside the full picture")
    compare.set_defaults(run=_compare)
    add_options(compare)


def _compare(wanted: argparse.Namespace) -> int:
    with begun(wanted) as work:
        full, results = work.answer(wanted), []
        from flowcut.studies import compare_methods

        compared = compare_methods(work.model, work.picture, wanted.question, full, work.cuts)
        for done, cut in enumerate(work.cuts):
            work.progress.report(done / len(work.cuts), f"Comparing: {METHODS[cut.method].label}")
            results.append(next(compared))
    refused = _refused(work.model)
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
    print(table(("method", "answer", "kept?", "ln p of the full answer", "source"), rows))
    for name, reason in refused.items():
        print(f"{METHODS[name].label}: {reason}")
    print_differences((METHODS[result.cut.method].label, result.cut.differs) for result in results)
    return 0


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
        "differs": result.cut.differs,
        "answer": None if run is None else run.answer,
        "exact_match": result.exact_match,
        "logprobs": None if result.logprobs is None else [float(one) for one in result.logprobs],
        "kept_patch_ids": kept,
        "error": result.error,
    }
