"""How few tokens keep the answer: sweeps over budgets, and the smallest one."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import groupby
from typing import Any

from flowcut.criteria.positions import Positions
from flowcut.cut import CutConfig
from flowcut.errors import InvalidCut
from flowcut.families.support import positions_under
from flowcut.models.loading import VisionLanguageModel
from flowcut.records.studies import (
    AnswerScores,
    SmallestBudget,
    SweepPoint,
)
from flowcut.studies.one_shot import PatchChooser
from flowcut.studies.scorer import AnswerScorer
from flowcut.studies.steps import KnownScores, attempt, in_shares, score_at, with_positions


def sweep(
    model: VisionLanguageModel,
    image: Any,
    question: str,
    answer_ids: Sequence[int],
    cuts_at: Sequence[CutConfig],
    *,
    system: str | None = None,
    positions: Positions | None = None,
) -> Iterator[SweepPoint]:
    """The answer under every cut; those that share their reading come first, so that order is not kept.

    A cut that fails has its sentence in its point, and the others go on. `positions` are those of every cut, which the
    point's cut then names; None: as each cut says.

    Raises:
        FlowCutError: picture, question or answer cannot be used.
    """
    scorer = AnswerScorer(model, image, question, answer_ids, system)
    chooser, known = PatchChooser(scorer), KnownScores(scorer)
    placed = [with_positions(cut, positions) for cut in cuts_at]
    cuts = sorted(
        placed, key=lambda cut: (cut.tokens, _positions(scorer, cut))
    )  # equal budgets side by side are read at once
    together = [cut for cut in cuts if chooser.knows(cut)]
    for _, points in in_shares(together, lambda share: _points(chooser, known, share)):
        yield from points
    for cut in cuts:
        if not chooser.knows(cut):
            yield _point(cut, partial(scorer.score_cut, cut))


def _points(chooser: PatchChooser, known: KnownScores, cuts: Sequence[CutConfig]) -> list[SweepPoint]:
    """Several one-shot cuts, read at once; each for itself where one fails, so that only its own point does."""
    points: list[SweepPoint] = []
    for positions, alike in groupby(cuts, key=partial(_positions, known.scorer)):
        points += _points_at(chooser, known, list(alike), positions)
    return points


def _points_at(
    chooser: PatchChooser, known: KnownScores, cuts: Sequence[CutConfig], positions: Positions
) -> list[SweepPoint]:
    scores, _ = attempt(lambda: known.score([chooser.kept(cut) for cut in cuts], positions))
    if scores is None:
        return [_point(cut, partial(_score_kept, chooser, known, cut)) for cut in cuts]
    rows = zip(cuts, scores.total.tolist(), scores.exact_match.tolist(), strict=True)
    return [SweepPoint(cut, total, exact_match) for cut, total, exact_match in rows]


def _positions(scorer: AnswerScorer, cut: CutConfig) -> Positions:
    return positions_under(cut, scorer.model.family)


def _score_kept(chooser: PatchChooser, known: KnownScores, cut: CutConfig) -> AnswerScores:
    return known.score([chooser.kept(cut)], _positions(known.scorer, cut))


def _point(cut: CutConfig, measure: Callable[[], AnswerScores]) -> SweepPoint:
    scores, failed = attempt(measure)
    if scores is None:
        return SweepPoint(cut, float("nan"), False, failed)
    return SweepPoint(cut, float(scores.total[0]), bool(scores.exact_match[0]))


def smallest_budget(
    model: VisionLanguageModel,
    image: Any,
    question: str,
    answer_ids: Sequence[int],
    cut: CutConfig,
    *,
    system: str | None = None,
    positions: Positions | None = None,
) -> Iterator[SmallestBudget]:
    """The fewest tokens with which a method keeps the answer: by bisection, then looked for below, ever further down.

    An answer that comes back with fewer tokens moves the search there; `monotone` is then False. Budgets that were not
    tried may keep the answer too. `positions` outweigh the cut's own; None: as it says.

    Raises:
        FlowCutError: this model cannot do the cut, or picture, question or answer cannot be used.
    """
    if cut.then is not None:
        raise InvalidCut(f"The smallest budget is that of one cut, and {cut.title} are two: leave then out.")
    scorer = AnswerScorer(model, image, question, answer_ids, system)
    chooser, cut = PatchChooser(scorer), with_positions(cut, positions)
    tried: dict[int, bool] = {}
    search = _downwards(scorer.most_tokens)
    tokens, ended = next(search), False
    while not ended:
        tried[tokens] = bool(score_at(scorer, chooser, replace(cut, tokens=tokens)).exact_match[0])
        try:
            tokens = search.send(tried[tokens])
        except StopIteration:
            ended = True
        least = min((budget for budget, exact_match in tried.items() if exact_match), default=None)
        monotone = least is None or all(exact_match for budget, exact_match in tried.items() if budget > least)
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
