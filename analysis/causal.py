"""What a criterion's ranking has to do with the answer: measured by taking patches away and scoring the same answer.

The *fall* of a patch (or block of patches) is the loss of the answer's log-prob when it alone is gone. A ranking is
compared with it by Spearman's rank correlation; deletion and insertion curves are summed up by their area.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

RESAMPLES = 1000
LEVEL = 0.95


@dataclass(frozen=True)
class Agreement:
    """A value with its bootstrap interval."""

    value: float
    low: float
    high: float
    count: int
    """Patches (or blocks) that it rests on."""


def block_mean(ranking: np.ndarray, block_of_patch: np.ndarray) -> np.ndarray:
    """float64 [P], the mean rank of a ranking's [N] patches in each block; NaN for a block without patches."""
    ranking = rankdata(ranking)  # ranks, so that one patch of a skewed score cannot speak for its block
    size = int(block_of_patch.max()) + 1
    total = np.bincount(block_of_patch, ranking.astype(np.float64), minlength=size)
    count = np.bincount(block_of_patch, minlength=size)
    mean: np.ndarray = np.divide(total, count, out=np.full(size, np.nan), where=count > 0)
    return mean


def rank_agreement(
    rankings: Mapping[str, np.ndarray],
    logprob_drop: np.ndarray,
    block_of_patch: np.ndarray | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Agreement]:
    """Spearman's correlation of each ranking with the fall, with a 95 % percentile bootstrap interval.

    Patches (or blocks) are drawn with replacement, the same draws for every ranking, and ranked anew in each draw.
    Neighbouring patches show parts of one object and are not independent: read the interval as a lower bound on the
    doubt. Of one picture and one question; it says nothing about other pictures.

    Args:
        rankings: by name, float [N], higher = kept longer.
        fall: float [P], log-prob lost without the patch or block; NaN: not measured, left out.
        block_of_patch: int64 [N], the block of each patch; None: each patch is a block of its own (P = N).
        resamples: bootstrap draws.
        seed: of the draws.

    Raises:
        ValueError: a ranking's length does not fit.
    """
    measured = ~np.isnan(logprob_drop)
    count = int(measured.sum())
    weights = _draws(count, resamples, seed)
    found = {}
    for name, ranking in rankings.items():
        blocks = ranking if block_of_patch is None else block_mean(ranking, block_of_patch)
        if blocks.shape != logprob_drop.shape:
            raise ValueError(
                f"The ranking {name!r} is of {len(blocks)} patches or blocks, the fall of {len(logprob_drop)}."
            )
        pair = blocks[measured], logprob_drop[measured]
        value = float(weighted_spearman(*pair, np.ones((1, count)))[0])
        drawn = weighted_spearman(*pair, weights)
        low, high = np.nanquantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]) if value == value else (np.nan, np.nan)
        found[name] = Agreement(value, float(low), float(high), count)
    return found


def _draws(count: int, resamples: int, seed: int) -> np.ndarray:
    """float64 [R, N], how often each of N patches is in each of R draws with replacement."""
    if count == 0:
        return np.zeros((resamples, 0))
    return np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=resamples).astype(np.float64)


def weighted_spearman(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """float64 [R], Spearman's correlation of x and y [N] in R draws, each patch counted `weights` [R, N] times.

    The same as repeating the patches and ranking what was drawn, without sorting every draw. NaN where a draw holds
    one value of x or of y alone.
    """
    if len(x) < 2:
        return np.full(len(weights), np.nan)
    ranks = [_ranks_in_draws(values, weights) for values in (x, y)]
    total = weights.sum(axis=1, keepdims=True)
    a, b = (rank - (weights * rank).sum(axis=1, keepdims=True) / total for rank in ranks)
    covariance, spread = (weights * a * b).sum(1), np.sqrt((weights * a * a).sum(1) * (weights * b * b).sum(1))
    correlation: np.ndarray = np.divide(covariance, spread, out=np.full(len(weights), np.nan), where=spread > 0)
    return correlation


def _ranks_in_draws(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """float64 [R, N], the mean rank of each patch's value in each draw, ties sharing theirs."""
    place = rankdata(values, method="dense").astype(np.int64) - 1  # of each value among the distinct ones
    order = np.argsort(place, kind="stable")
    starts = np.flatnonzero(np.diff(place[order], prepend=-1))
    drawn = np.add.reduceat(weights[:, order], starts, axis=1)  # [R, distinct values]
    return np.asarray((np.cumsum(drawn, axis=1) - (drawn - 1) / 2)[:, place])


def curve_area(share: np.ndarray, logprob: np.ndarray, full: float, no_image: float) -> float:
    """Area under a deletion or insertion curve, by the trapezoid rule, over the range of `share`.

    The log-prob is first put on a scale on which the whole picture is 1 and no picture 0; it may leave that range. Of
    deletion curves a low area says that what went first carried the answer, of insertion curves a high one.

    Args:
        share: float [F], share of patches removed (or shown), ascending.
        logprob: float [F], the answer's log-prob there.
        whole: log-prob with the whole picture.
        nothing: log-prob with no visual token.

    Returns:
        NaN where the picture makes no difference (whole equals nothing), or some log-prob is not measured.
    """
    if full == no_image or len(share) < 2:
        return float("nan")
    scaled = (np.asarray(logprob, np.float64) - no_image) / (full - no_image)
    return float(np.trapezoid(scaled, share) / (share[-1] - share[0]))


@dataclass(frozen=True, eq=False)
class Band:
    """Several seeds of a random control at the same places F."""

    low: np.ndarray
    """float64 [F], the lowest seed."""
    mean: np.ndarray
    """float64 [F]."""
    high: np.ndarray
    """float64 [F], the highest seed."""
    seeds: int


def band(curves: Sequence[np.ndarray] | np.ndarray) -> Band:
    """Lowest, mean and highest of several seeds' curves, each [F]."""
    stacked = np.asarray(curves, np.float64)
    return Band(stacked.min(axis=0), stacked.mean(axis=0), stacked.max(axis=0), len(stacked))


@dataclass(frozen=True)
class FlipPoint:
    """Where, on the way down from all tokens, the answer is lost."""

    kept_down_to: int | None
    """The smallest budget to which the answer held without a break, from the largest tried; None: not even there."""
    flips_at: int | None
    """The largest budget at which it was another answer; None: it held at all that were tried."""
    returns_at: tuple[int, ...]
    """Smaller budgets at which the answer was back, largest first: where the sweep is not monotone."""


def flip_point(tokens: np.ndarray, exact_match: np.ndarray) -> FlipPoint:
    """The flip point of a sweep.

    Args:
        tokens: int [K], budgets in any order.
        same: bool [K], whether the answer was the same.
    """
    order = np.argsort(-np.asarray(tokens), kind="stable")
    budgets, held = np.asarray(tokens)[order], np.asarray(exact_match, bool)[order]
    first = int(np.argmin(held)) if not held.all() else len(held)
    return FlipPoint(
        kept_down_to=int(budgets[first - 1]) if first else None,
        flips_at=int(budgets[first]) if first < len(held) else None,
        returns_at=tuple(int(budget) for budget in budgets[first:][held[first:]]),
    )
