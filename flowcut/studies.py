"""Studies of one answer: methods side by side, knock-outs, removal curves, budgets. Each is a generator.

A study yields as soon as something is done, so that partial results, progress and a stop need nothing more; the model's
lock is held while it works, never while it waits for its caller.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

import numpy as np

from flowcut.choices import PatchChooser
from flowcut.criteria import METHODS
from flowcut.errors import FlowCutError
from flowcut.models import VisionLanguageModel
from flowcut.results import Run
from flowcut.run import ask
from flowcut.schedule import CutConfig
from flowcut.scoring import AnswerScorer
from flowcut.study_results import (
    AnswerScores,
    KnockOut,
    MethodResult,
    PatchRanking,
    RemovalCurves,
    SmallestBudget,
    SweepPoint,
)

T = TypeVar("T")
SECONDS_A_SHARE = 0.7
"""About how long a study works before it yields."""
NO_ANSWER = 0
"""A token id that stands where only the picture is looked at."""
TIE_SEED = 0
"""Of the draw that orders patches of equal rank."""


def compare_methods(
    model: VisionLanguageModel, image: Any, question: str, full: Run, cuts: Sequence[CutConfig]
) -> Iterator[MethodResult]:
    """Ask the same question under every cut, with the settings of `full`, and score the full answer there.

    Only FlowCut and its ablations are recorded: up to its cut, the encoder of a one-shot method does what it does in
    the full run. A method that fails has its sentence in its result, and the others go on.

    Raises:
        FlowCutError: the full run has no answer, or picture and question cannot be used.
    """
    scorer = AnswerScorer(model, image, question, full.token_ids, full.generation.get("system"))
    chooser = PatchChooser(scorer)
    settings = {name: value for name, value in full.generation.items() if name != "num_beams"}
    if full.stopped:
        settings["max_new_tokens"] = len(full.tokens)
    for cut in cuts:
        yield _compare_one(scorer, chooser, question, full, cut, settings)


def _compare_one(
    scorer: AnswerScorer, chooser: PatchChooser, question: str, full: Run, cut: CutConfig, settings: dict[str, Any]
) -> MethodResult:
    recorded = METHODS[cut.method].recipe is not None
    run, failed = _attempt(lambda: ask(scorer.model, scorer.picture, question, cut, record=recorded, **settings))
    if run is None:
        return MethodResult(cut, None, None, False, failed)
    if run.token_ids == full.token_ids:  # then the run itself has measured them
        return MethodResult(cut, run, np.array([token.logprob for token in run.tokens], dtype=np.float32), True)
    scores, failed = _attempt(partial(_score_at, scorer, chooser, cut))
    return MethodResult(cut, run, None if scores is None else scores.logprobs[0], False, failed)


def rank_patches(
    model: VisionLanguageModel, image: Any, question: str, cuts: Sequence[CutConfig], *, system: str | None = None
) -> Iterator[PatchRanking]:
    """What each method ranks the patches by, without its answer; a method that fails has its sentence.

    Raises:
        FlowCutError: picture or question cannot be used.
    """
    scorer = AnswerScorer(model, image, question, [NO_ANSWER], system)
    chooser = PatchChooser(scorer)
    for cut in cuts:
        ranking, failed = _attempt(partial(_ranking_of, scorer, chooser, cut))
        yield PatchRanking(cut, ranking, failed)


def _ranking_of(scorer: AnswerScorer, chooser: PatchChooser, cut: CutConfig) -> np.ndarray | None:
    return chooser.ranking(cut) if chooser.knows(cut) else scorer.score_cut(cut).ranking


def knock_out(
    model: VisionLanguageModel,
    image: Any,
    question: str,
    answer_ids: Sequence[int],
    block: int = 1,
    *,
    system: str | None = None,
) -> Iterator[KnockOut]:
    """The answer without each block of `block` x `block` patches, and with each alone; the last yield is complete.

    Raises:
        FlowCutError: this model's visual tokens are not its patches, or a block is not of 1 patch or more.
    """
    if isinstance(block, bool) or not isinstance(block, int) or block < 1:
        raise FlowCutError(f"block is {block!r}: it must be a whole number of patches, at least 1.")
    scorer = AnswerScorer(model, image, question, answer_ids, system)
    blocks = block_of_patch(scorer.n_patches // scorer.grid_cols, scorer.grid_cols, block)
    ids, count = np.arange(scorer.n_patches), int(blocks.max()) + 1
    whole, nothing = scorer.score([ids, ids[:0]]).total.tolist()
    alone, without = np.full(count, np.nan), np.full(count, np.nan)

    def so_far() -> KnockOut:
        done = float(np.isfinite([alone, without]).mean())
        return KnockOut(block, blocks, without.copy(), alone.copy(), whole, nothing, done, scorer.grid_cols)

    yield so_far()
    for found, keeps in ((alone, True), (without, False)):
        sets = [ids[(blocks == one) == keeps] for one in range(count)]
        for share, scores in in_shares(sets, scorer.score):
            found[share] = scores.total
            yield so_far()


def block_of_patch(rows: int, cols: int, block: int) -> np.ndarray:
    """int64 [rows * cols], the square block that each patch lies in; blocks are counted in reading order."""
    row, col = np.divmod(np.arange(rows * cols), cols)
    across = -(-cols // block)
    return np.asarray((row // block) * across + col // block)


def deletion_insertion(
    model: VisionLanguageModel,
    image: Any,
    question: str,
    answer_ids: Sequence[int],
    rankings: Mapping[str, np.ndarray],
    steps: int = 16,
    *,
    system: str | None = None,
) -> Iterator[RemovalCurves]:
    """Each ranking's curves: its highest patches removed first, and its highest alone, in `steps` equal steps.

    Patches of equal rank come in the order of one fixed draw: reading order would favour the top of the picture.

    Args:
        rankings: by name float [N], higher counts as more; `-inf` is allowed, NaN is not.

    Raises:
        FlowCutError: a ranking does not have one number for each patch, or there is not one step at least.
    """
    scorer = AnswerScorer(model, image, question, answer_ids, system)
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise FlowCutError(f"steps is {steps!r}: it must be a whole number of at least 1.")
    orders = {name: highest_first(name, ranking, scorer.n_patches) for name, ranking in rankings.items()}
    counts = np.unique(np.round(np.linspace(0, scorer.n_patches, steps + 1)).astype(int))
    known = _Known(scorer)
    for name, order in orders.items():
        totals = known.totals([*(order[count:] for count in counts), *(order[:count] for count in counts)])
        yield RemovalCurves(name, counts / scorer.n_patches, totals[: len(counts)], totals[len(counts) :])


def highest_first(name: str, ranking: Any, n_patches: int) -> np.ndarray:
    """int64 [N], patch ids from the highest-ranked to the lowest; equal ones in the order of a fixed draw.

    Raises:
        FlowCutError: the ranking does not have one number for each patch.
    """
    numbers = np.asarray(ranking, dtype=np.float64)
    if numbers.shape != (n_patches,) or np.isnan(numbers).any():
        raise FlowCutError(
            f"The ranking {name!r} has the shape {list(numbers.shape)} with {int(np.isnan(numbers).sum())} NaN: give "
            f"one number for each of the {n_patches} patches."
        )
    drawn = np.random.default_rng(TIE_SEED).permutation(n_patches)
    return np.lexsort((drawn, -numbers))


def sweep(
    model: VisionLanguageModel,
    image: Any,
    question: str,
    answer_ids: Sequence[int],
    cuts_at: Sequence[CutConfig],
    *,
    system: str | None = None,
) -> Iterator[SweepPoint]:
    """The answer under every cut; those that share their reading come first, so that order is not kept.

    A cut that fails has its sentence in its point, and the others go on.

    Raises:
        FlowCutError: picture, question or answer cannot be used.
    """
    scorer = AnswerScorer(model, image, question, answer_ids, system)
    chooser, known = PatchChooser(scorer), _Known(scorer)
    cuts = sorted(cuts_at, key=lambda cut: cut.tokens)  # equal budgets side by side are read at once
    together = [cut for cut in cuts if chooser.knows(cut)]
    for _, points in in_shares(together, lambda share: _points(chooser, known, share)):
        yield from points
    for cut in cuts:
        if not chooser.knows(cut):
            yield _point(cut, partial(scorer.score_cut, cut))


def _points(chooser: PatchChooser, known: _Known, cuts: Sequence[CutConfig]) -> list[SweepPoint]:
    """Several one-shot cuts, read at once; each for itself where one fails, so that only its own point does."""
    scores, _ = _attempt(lambda: known.score([chooser.kept(cut) for cut in cuts]))
    if scores is None:
        return [_point(cut, partial(_score_kept, chooser, known, cut)) for cut in cuts]
    rows = zip(cuts, scores.total.tolist(), scores.same.tolist(), strict=True)
    return [SweepPoint(cut, total, same) for cut, total, same in rows]


def _score_kept(chooser: PatchChooser, known: _Known, cut: CutConfig) -> AnswerScores:
    return known.score([chooser.kept(cut)])


def _point(cut: CutConfig, measure: Callable[[], AnswerScores]) -> SweepPoint:
    scores, failed = _attempt(measure)
    if scores is None:
        return SweepPoint(cut, float("nan"), False, failed)
    return SweepPoint(cut, float(scores.total[0]), bool(scores.same[0]))


def smallest_budget(
    model: VisionLanguageModel,
    image: Any,
    question: str,
    answer_ids: Sequence[int],
    cut: CutConfig,
    *,
    system: str | None = None,
) -> Iterator[SmallestBudget]:
    """The fewest tokens with which a method keeps the answer: by bisection, then looked for below, ever further down.

    An answer that comes back with fewer tokens moves the search there; `monotone` is then False. Budgets that were not
    tried may keep the answer too.

    Raises:
        FlowCutError: this model cannot do the cut, or picture, question or answer cannot be used.
    """
    scorer = AnswerScorer(model, image, question, answer_ids, system)
    chooser = PatchChooser(scorer)
    tried: dict[int, bool] = {}
    search = _downwards(scorer.most_tokens)
    tokens, ended = next(search), False
    while not ended:
        tried[tokens] = bool(_score_at(scorer, chooser, replace(cut, tokens=tokens)).same[0])
        try:
            tokens = search.send(tried[tokens])
        except StopIteration:
            ended = True
        least = min((budget for budget, same in tried.items() if same), default=None)
        monotone = least is None or all(same for budget, same in tried.items() if budget > least)
        yield SmallestBudget(cut, least, tuple(tried.items()), monotone, ended)


def _downwards(most: int) -> Generator[int, bool, None]:
    """Budgets to try, each once; is sent whether the one before keeps the answer."""
    if not (yield most):
        return
    keeps, below = most, 0
    failed = set()
    while keeps - below > 1:
        middle = (below + keeps) // 2
        if (yield middle):
            keeps = middle
        else:
            failed.add(middle)
            below = middle
    step = 1
    while keeps > 1:
        budget = max(keeps - step, 1)
        if budget not in failed:
            if (yield budget):
                keeps, step = budget, 1
                continue
            failed.add(budget)
        if budget == 1:
            return
        step *= 2


@dataclass
class _Known:
    """Scores of sets of patches, each read once in a study."""

    scorer: AnswerScorer

    def __post_init__(self) -> None:
        self._scores: dict[bytes, tuple[np.ndarray, bool]] = {}

    def score(self, sets: Sequence[np.ndarray]) -> AnswerScores:
        keys = [np.sort(one).astype(np.int64).tobytes() for one in sets]
        new = {key: one for key, one in zip(keys, sets, strict=True) if key not in self._scores}
        if new:
            scores = self.scorer.score(list(new.values()))
            self._scores.update(zip(new, zip(scores.logprobs, scores.same, strict=True), strict=True))
        logprobs, same = zip(*(self._scores[key] for key in keys), strict=True)
        return AnswerScores(np.stack(logprobs), np.array(same))

    def totals(self, sets: Sequence[np.ndarray]) -> np.ndarray:
        return self.score(sets).total


def in_shares(items: Sequence[Any], work: Callable[[Sequence[Any]], Any]) -> Iterator[tuple[slice, Any]]:
    """`work` done on one stretch of the items after the other, each of such a length that it takes about as long."""
    begin, size = 0, 4
    while begin < len(items):
        share = slice(begin, begin + size)
        started = time.perf_counter()
        result = work(items[share])
        spent = time.perf_counter() - started
        yield share, result
        begin += size
        size = max(1, min(4 * size, round(size * SECONDS_A_SHARE / max(spent, 1e-6))))


def _score_at(scorer: AnswerScorer, chooser: PatchChooser, cut: CutConfig) -> AnswerScores:
    return scorer.score([chooser.kept(cut)]) if chooser.knows(cut) else scorer.score_cut(cut)


def _attempt(work: Callable[[], T]) -> tuple[T | None, str | None]:
    """What `work` returns; or, of whatever kind its error is, a sentence: the other methods of a study go on."""
    try:
        return work(), None
    except Exception as error:
        return None, _sentence(error)


def _sentence(error: Exception) -> str:
    """What went wrong, for a reader: our own errors are sentences already."""
    if isinstance(error, FlowCutError):
        return str(error)
    reason = " ".join(str(error).split())[:200]
    return f"This method failed ({type(error).__name__}: {reason}): try a smaller picture or another method."
