"""The budget sweep: the answer from all tokens down to one, under every criterion; where it flips, and how few keep it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import streamlit as st

from app.studies import Study
from app.widgets.compare import methods
from app.widgets.compare.running import Plan, follow
from app.widgets.compare.subject import Subject
from flowcut.criteria import METHODS

if TYPE_CHECKING:
    from flowcut.models import VisionLanguageModel

SHARES = (1, 3 / 4, 1 / 2, 1 / 3, 1 / 4, 1 / 6, 1 / 9, 1 / 12, 1 / 18, 1 / 24, 1 / 36, 1 / 48, 1 / 72)
"""Of all visual tokens; below the last, the budgets of `FEWEST`."""
FEWEST = (6, 4, 3, 2, 1)


def show(about: Subject) -> None:
    """The section."""
    follow(about, plan(about), lambda results: _results(about, results))


def budgets(n_tokens: int) -> list[int]:
    """From all visual tokens down to one, about evenly on a logarithmic scale; each once."""
    grid = {max(1, round(share * n_tokens)) for share in SHARES} | {few for few in FEWEST if few < n_tokens}
    return sorted(grid, reverse=True)


def plan(about: Subject) -> Plan:
    """Every criterion at every budget, then the smallest budget of each by bisection."""

    def work(model: VisionLanguageModel, study: Study) -> Iterator[Any]:
        import flowcut

        refused = flowcut.refusals(model)
        cuts = [cut for cut in methods.cuts_at(1, ("flowcut", "peer", "control")) if cut.method not in refused]
        asked = (model, about.image, about.full.question, about.answer_ids)
        grid = budgets(about.full.visual_tokens)
        points = [replace(cut, tokens=tokens) for cut in cuts for tokens in grid]
        for done, point in enumerate(flowcut.sweep(*asked, points), 1):
            study.report(point.cut.title, 0.7 * done / len(points))
            yield point
        for number, cut in enumerate(cuts):
            for found in flowcut.smallest_budget(*asked, cut):
                study.report(f"Looking for the smallest budget of {METHODS[cut.method].label}", 0.7 + 0.3 * number / len(cuts))
                yield found

    takes = "Every criterion at some eighteen budgets; with the embedded model less than a minute."
    return Plan(about.key("sweep", about.full.visual_tokens), work, "Sweep the budget", takes)


def _results(about: Subject, results: list[Any]) -> None:
    st.write(len(results))
