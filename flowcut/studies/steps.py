"""What the studies share: scores read once, work in shares of about equal time, failures as sentences."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np

from flowcut.criteria.positions import Positions
from flowcut.cut import CutConfig
from flowcut.errors import FlowCutError
from flowcut.families.support import positions_under
from flowcut.records.studies import AnswerScores
from flowcut.studies.one_shot import PatchChooser
from flowcut.studies.scorer import AnswerScorer

T = TypeVar("T")
SECONDS_A_SHARE = 0.7
"""About how long a study works before it yields."""


@dataclass
class KnownScores:
    """Scores of sets of patches, each read once in a study."""

    scorer: AnswerScorer

    def __post_init__(self) -> None:
        self._scores: dict[tuple[str, bytes], tuple[np.ndarray, bool]] = {}

    def score(self, sets: Sequence[np.ndarray], positions: Positions) -> AnswerScores:
        keys = [(positions, np.sort(one).astype(np.int64).tobytes()) for one in sets]
        new = {key: one for key, one in zip(keys, sets, strict=True) if key not in self._scores}
        if new:
            scores = self.scorer.score(list(new.values()), positions)
            self._scores.update(zip(new, zip(scores.logprobs, scores.exact_match, strict=True), strict=True))
        logprobs, exact_match = zip(*(self._scores[key] for key in keys), strict=True)
        return AnswerScores(np.stack(logprobs), np.array(exact_match), positions=positions)

    def totals(self, sets: Sequence[np.ndarray], positions: Positions) -> np.ndarray:
        return self.score(sets, positions).total


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


def score_at(scorer: AnswerScorer, chooser: PatchChooser, cut: CutConfig) -> AnswerScores:
    if chooser.knows(cut):
        return scorer.score([chooser.kept(cut)], positions_under(cut, scorer.model.family))
    return scorer.score_cut(cut)


def with_positions(cut: CutConfig, positions: Positions | None) -> CutConfig:
    """The cut with these positions; None: with its own.

    Raises:
        InvalidCut: there are no such positions.
    """
    return cut if positions is None else replace(cut, positions=positions)


def attempt(work: Callable[[], T]) -> tuple[T | None, str | None]:
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
