"""Every criterion at one budget: masks as small multiples, answers, and the full answer's log-prob under each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
import streamlit as st

from flowcut.criteria import METHODS
from flowcut.cut import CutConfig, all_cuts
from flowcut.records.run import Run
from flowcut_lens.app.components.formatting import signed
from flowcut_lens.app.jobs.runtime import runtime
from flowcut_lens.app.jobs.studies import Study
from flowcut_lens.app.views.compare.context import SEEDS, Context
from flowcut_lens.app.views.compare.mask_thumbnails import small_mask
from flowcut_lens.app.views.compare.study import StudySpec, follow

if TYPE_CHECKING:
    from flowcut.models.loading import VisionLanguageModel
    from flowcut.records.studies import MethodResult

KINDS = {
    "flowcut": "FlowCut",
    "peer": "Other criteria",
    "ablation": "FlowCut's own ablations",
    "control": "Controls: random, and criteria that use no evidence",
}
HOW_TO_READ = (
    "Bright patches are kept, faded ones cut. “Kept”: greedy decoding writes the full answer token for token. The "
    "number is the change of the full answer's log-prob under this cut, in nats: 0 is as sure as with all tokens. A "
    "method that keeps an answer here has not shown why: see the causal check."
)


@dataclass(frozen=True)
class NotAllowed:
    """A criterion that the loaded model cannot have."""

    method: str
    reason: str


def cuts_at(tokens: int, kinds: tuple[str, ...] = tuple(KINDS)) -> list[CutConfig]:
    """Every cut that is compared at a budget: both variants, switches on and off, several draws of chance."""
    cuts = all_cuts(tokens, range(SEEDS), every_setting=True)
    return [cut for cut in cuts if METHODS[cut.method].kind in kinds]


def plan(context: Context) -> StudySpec:
    """The study of all methods; other sections read its results too."""

    def work(model: VisionLanguageModel, study: Study) -> Iterator[Any]:
        import flowcut
        from flowcut.families.support import allowed_cuts

        for method, reason in flowcut.refusals(model).items():
            yield NotAllowed(method, reason)
        cuts = allowed_cuts(model, context.tokens, range(SEEDS), every_setting=True)
        results = flowcut.compare_methods(model, context.picture.open(), context.full.question, context.full, cuts)
        for done, result in enumerate(results, 1):
            study.report(f"Asked under {done} of {len(cuts)} cuts", done / len(cuts))
            yield result

    takes = f"{len(cuts_at(context.tokens))} answers; with the embedded model some ten seconds."
    key = context.key("methods", context.tokens, *METHODS)
    return StudySpec(key, work, "Compare all methods", takes, by_itself=True)


def show(context: Context) -> None:
    """The section."""
    follow(context, plan(context), lambda results: _grid(context, results))


def found(context: Context) -> list[MethodResult] | None:
    """The methods' answers for a section that needs all of them; None, with their progress on the page, until then."""
    study = runtime().studies.find(plan(context).key)
    if study is not None and study.complete:
        return answered(study.results)
    follow(context, plan(context), lambda results: None)
    return None


def answered(results: list[Any]) -> list[MethodResult]:
    """Of a study's results those that are an answer under a cut."""
    return [result for result in results if not isinstance(result, NotAllowed) and result.error is None]


def _grid(context: Context, results: list[Any]) -> None:
    full = context.full.logprob
    found = [result for result in results if not isinstance(result, NotAllowed)]
    for kind, title in KINDS.items():
        of_kind = [result for result in found if METHODS[result.cut.method].kind == kind]
        if of_kind:
            cards = "".join(card(context, result, full) for result in one_draw(of_kind))
            st.html(f'<h3 class="lens-panel">{title}</h3><div class="lens-smalls">{cards}</div>')
            _random_draws(of_kind, full)
    refused = [result for result in results if isinstance(result, NotAllowed)]
    if refused:
        lines = "".join(f"<li>{escape(METHODS[one.method].label)}: {escape(one.reason)}</li>" for one in refused)
        st.html(f'<h3 class="lens-panel">Not for this model</h3><ul class="lens-list">{lines}</ul>')
    st.caption(f"**How to read this.** {HOW_TO_READ}")
    st.caption(context.facts(f"{context.tokens} of {context.full.visual_tokens} visual tokens", "greedy decoding"))


@dataclass(frozen=True, eq=False)
class Choice:
    """What one method chose, for figures that compare methods."""

    name: str
    cut: CutConfig
    patch_ids: np.ndarray
    """int64 [T], patches that the language model's last layer reads."""
    ranking: np.ndarray
    """float64 [N], higher is kept longer; NaN where the method ranks nothing."""


def choices(results: list[MethodResult], n_patches: int, ablations: bool = True) -> list[Choice]:
    """The choices of the methods that keep patches of the picture's own grid; of the random control, every draw."""
    return [
        Choice(short_title(one.cut), one.cut, one.run.final_patch_ids, _ranking(one.run, n_patches))
        for one in results
        if one.run is not None
        and one.run.final_patch_ids is not None
        and (ablations or METHODS[one.cut.method].kind != "ablation")
    ]


def _ranking(run: Run, n_patches: int) -> np.ndarray:
    return np.full(n_patches, np.nan) if run.ranking is None else run.ranking.astype(np.float64)


def one_draw(results: list[MethodResult]) -> list[MethodResult]:
    """Of several random draws the first stands for all."""
    return [result for result in results if not result.cut.seed]


def _random_draws(results: list[MethodResult], full: float) -> None:
    draws = [result for result in results if result.cut.method == "random" and result.logprobs is not None]
    if len(draws) > 1:
        changes = [signed(total(result) - full, plus=True) for result in sorted(draws, key=total)]
        kept = sum(result.exact_match for result in draws)
        st.caption(
            f"Random, {len(draws)} seeds: the answer kept in {kept} of {len(draws)}, log-prob {changes[0]} to "
            f"{changes[-1]} nats."
        )


def card(context: Context, result: MethodResult, full: float) -> str:
    """One cut's mask, answer and sources as HTML; `full` is the full answer's log-prob with all tokens."""
    head = f"<h4>{escape(short_title(result.cut))}</h4>"
    if result.run is None:
        reason = escape(result.error or "no answer")
        return f'<figure class="lens-small"><figcaption>{head}<p>{reason}</p></figcaption></figure>'
    words = f'<p class="answer" dir="auto">{escape(result.run.answer) or "(empty)"}</p>'
    sources = [escape(METHODS[one.method].source) for one in result.cut.stages]
    source = "".join(f'<p class="source" title="{one}">{one}</p>' for one in sources)
    behind = result.cut.looks_behind(context.record.n_layers, context.record.last_read_layer)
    if behind is not None:
        source += f'<p class="source whole">{escape(behind)}</p>'
    if result.cut.differs:
        sentences = "".join(f"<p>{escape(sentence)}</p>" for sentence in result.cut.differs)
        source += f'<details class="source"><summary>differs from its release</summary>{sentences}</details>'
    caption = f"<figcaption>{head}{words}<p>{_verdict(result, full)}</p>{source}</figcaption>"
    return f'<figure class="lens-small">{_picture(context, result.run)}{caption}</figure>'


def short_title(cut: CutConfig) -> str:
    """The method with what sets it apart from others at the same budget; two methods with their budgets."""
    if cut.then is not None:
        return cut.title
    details = list(cut.set_apart)
    details += [] if cut.seed is None else [f"seed {cut.seed}"]
    details += [] if cut.layer is None else [f"layer {cut.layer}"]
    return METHODS[cut.method].label + (f", {', '.join(details)}" if details else "")


def _verdict(result: MethodResult, full: float) -> str:
    mark = '<b class="right">✓ kept</b>' if result.exact_match else '<b class="wrong">✗ changed</b>'
    return mark if result.logprobs is None else f"{mark} {signed(total(result) - full, plus=True)}"


def total(result: MethodResult) -> float:
    """Log-prob of the whole full answer under the cut; NaN where it was not measured."""
    return float("nan") if result.logprobs is None else float(np.sum(result.logprobs))


def _picture(context: Context, run: Run) -> str:
    source = small_mask(context, run)
    alt = escape(f"What {run.title} kept")
    return (
        '<div class="none">no mask: its patches are not those of the grid</div>'
        if source is None
        else (f'<img src="{source}" alt="{alt}" loading="lazy">')
    )
