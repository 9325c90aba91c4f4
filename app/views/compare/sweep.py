"""The budget sweep: the answer from all tokens down to one, where it flips, and how few tokens keep it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
import streamlit as st

from flowcut.cut import CutConfig
from flowcut.records.studies import SmallestBudget, SweepPoint
from flowcut_lens.analysis.causal import band, flip_point
from flowcut_lens.analysis.figures.causal import budget_sweep
from flowcut_lens.app.components.formatting import escape_markdown
from flowcut_lens.app.components.plots import plot
from flowcut_lens.app.components.table import table
from flowcut_lens.app.jobs.studies import Study
from flowcut_lens.app.views.compare import methods
from flowcut_lens.app.views.compare.context import Context
from flowcut_lens.app.views.compare.study import StudySpec, follow

if TYPE_CHECKING:
    from flowcut.models.loading import VisionLanguageModel

SHARES = (1, 3 / 4, 1 / 2, 1 / 3, 1 / 4, 1 / 6, 1 / 9, 1 / 12, 1 / 18, 1 / 24, 1 / 36, 1 / 48, 1 / 72)
"""Of all visual tokens; below the last, the budgets of `FEWEST`."""
FEWEST = (6, 4, 3, 2, 1)
TAKES = "Every criterion at some eighteen budgets; with the embedded model about a minute."
COLUMNS = ("criterion", "first lost at", "back at", "smallest that keeps it", "tried")
HOW_TO_READ = (
    "Smallest budget: found by bisection, then looked for below it; what was tried is written out, a cross for another "
    "answer. Where more tokens changed the answer again, the criterion is not monotone here, and “smallest” is only "
    "the smallest of those tried."
)


def show(context: Context) -> None:
    """The section."""
    follow(context, plan(context), lambda results: _results(context, results))


def budgets(n_tokens: int) -> list[int]:
    """From all visual tokens down to one, about evenly on a logarithmic scale; each once."""
    grid = {max(1, round(share * n_tokens)) for share in SHARES} | {few for few in FEWEST if few < n_tokens}
    return sorted(grid, reverse=True)


def _swept(tokens: int) -> list[CutConfig]:
    """What is swept, in the order of the registry; FlowCut's ablations are compared at one budget only."""
    return methods.cuts_at(tokens, ("flowcut", "peer", "control"))


def plan(context: Context) -> StudySpec:
    """Every criterion at every budget, then the smallest budget of each by bisection."""
    grid = budgets(context.full.visual_tokens)

    def work(model: VisionLanguageModel, study: Study) -> Iterator[Any]:
        import flowcut

        refused = flowcut.refusals(model)
        cuts = [cut for cut in _swept(1) if cut.method not in refused]
        asked = (model, context.picture.open(), context.full.question, context.full.token_ids)
        points = [replace(cut, tokens=tokens) for cut in cuts for tokens in grid]
        for done, point in enumerate(flowcut.sweep(*asked, points, system=context.system), 1):
            study.report(point.cut.title, 0.7 * done / len(points))
            yield point
        for number, cut in enumerate(cuts):
            for found in flowcut.smallest_budget(*asked, cut, system=context.system):
                study.report(f"Smallest budget of {methods.short_title(cut)}", 0.7 + 0.3 * number / len(cuts))
                yield found

    return StudySpec(context.key("sweep", tuple(grid)), work, "Sweep the budget", TAKES)


def _results(context: Context, results: list[Any]) -> None:
    """What was found so far, also of a sweep that was stopped: points without a measurement are left open."""
    by_method: dict[str, dict[int, SweepPoint]] = {}
    for point in results:
        if isinstance(point, SweepPoint):
            by_method.setdefault(methods.short_title(point.cut), {})[point.cut.tokens] = point
    by_method = {name: by_method[name] for name in map(methods.short_title, _swept(1)) if name in by_method}
    _figure(context, by_method)
    smallest = {methods.short_title(one.cut): one for one in results if isinstance(one, SmallestBudget) and one.done}
    _table(context, by_method, smallest)
    failed = {point.error: point for point in results if isinstance(point, SweepPoint) and point.error is not None}
    for sentence, point in failed.items():
        st.caption(f"{methods.short_title(point.cut)}, {point.cut.tokens} tokens: {escape_markdown(sentence)}")


def _figure(context: Context, by_method: dict[str, dict[int, SweepPoint]]) -> None:
    grid = budgets(context.full.visual_tokens)
    is_random = {name: next(iter(found.values())).cut.method == "random" for name, found in by_method.items()}
    draws = [found for name, found in by_method.items() if is_random[name] and len(found) == len(grid)]
    others = {name: found for name, found in by_method.items() if not is_random[name]}
    if not others:
        return
    chosen = st.pills(
        "Curves of", list(others), selection_mode="multi", default=list(others)[:5], key=f"sweep-of-{len(others)}"
    )
    figure = budget_sweep(
        np.array(grid),
        {name: _along(grid, others[name], "logprob") for name in chosen},
        {name: _along(grid, others[name], "exact_match") == 1.0 for name in chosen},
        context.facts(f"{context.full.visual_tokens} visual tokens in all", f"random: {len(draws)} seeds"),
        band([_along(grid, found, "logprob") for found in draws]) if draws else None,
        np.mean([_along(grid, found, "exact_match") for found in draws], axis=0) if draws else None,
        context.full.logprob,
    )
    plot(figure, budget_sweep)


def _along(grid: list[int], found: dict[int, SweepPoint], what: str) -> np.ndarray:
    """float [K], one measurement of a criterion along the budgets; NaN: not measured."""
    return np.array([float(getattr(found[tokens], what)) if tokens in found else np.nan for tokens in grid])


def _table(context: Context, by_method: dict[str, dict[int, SweepPoint]], smallest: dict[str, SmallestBudget]) -> None:
    """Flip point and smallest budget of every criterion that was swept; answers that came back are written out."""
    complete = len(budgets(context.full.visual_tokens))
    full = {name: list(found.values()) for name, found in by_method.items() if len(found) == complete}
    if not full:
        return
    table("budgets", COLUMNS, [_row(name, found, smallest.get(name)) for name, found in full.items()])
    st.caption(f"**How to read this.** {HOW_TO_READ}")
    st.caption(context.facts("greedy decoding", "the very same tokens"))


def _row(name: str, found: list[SweepPoint], smallest: SmallestBudget | None) -> str:
    flip = flip_point(np.array([point.cut.tokens for point in found]), np.array([point.exact_match for point in found]))
    lost = "never" if flip.flips_at is None else str(flip.flips_at)
    back = ", ".join(map(str, flip.returns_at)) or "–"
    fewest = tried = "…"
    if smallest is not None:
        fewest = "none" if smallest.tokens is None else str(smallest.tokens)
        fewest += "" if smallest.monotone else " (not monotone)"
        tried = " ".join(f"{tokens}{'✓' if same else '✗'}" for tokens, same in smallest.tried)
    cells = "".join(f"<td>{escape(cell)}</td>" for cell in (lost, back, fewest))
    return f'<tr><th>{escape(name)}</th>{cells}<td class="long">{escape(tried)}</td></tr>'
