"""What a criterion's ranking has to do with the answer: measured by taking patches away and scoring the same answer.

The *log-prob drop* of a patch (or block of patches) is what the answer's log-prob loses when it alone is taken away. A
ranking is compared with it by Spearman's rank correlation; deletion and insertion curves are summed up by their area.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

from flowcut.records.studies import KnockOut, SubsetEffects
from flowcut_lens.analysis.agreement import row_spearman

RESAMPLES = 1000
LEVEL = 0.95
DRAWS = 5
"""Orders drawn for what a reference ranks alike."""


@dataclass(frozen=True)
class Agreement:
    """A value with its bootstrap interval."""

    value: float
    low: float
    high: float
    count: int
    """Patches (or blocks) that it rests on."""


def needed(study: SubsetEffects | KnockOut) -> np.ndarray:
    """float64 [P], how much a block matters by this study, as rankings are compared with it.

    Sampled subsets: what it adds. A knock-out: the absolute change. What one block of a full picture costs is so little
    that its sign is that of other tokens' small shifts: a block is not needed less where its loss helps.
    """
    return study.effect if isinstance(study, SubsetEffects) else np.abs(study.logprob_drop)


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
    """Spearman's correlation of each ranking with the log-prob drop, with a 95 % percentile bootstrap interval.

    Patches (or blocks) are drawn with replacement, the same draws for every ranking, and ranked anew in each draw.
    Neighbouring patches show one object together and are not independent: the true interval is wider than this one. It
    is of one picture and one question, and says nothing about other pictures.

    Args:
        rankings: by name, float [N], higher = kept longer.
        logprob_drop: float [P], log-prob lost without the patch or block; NaN: not measured, left out.
        block_of_patch: int64 [N], the block of each patch; None: each patch is a block of its own (P = N).
        resamples: bootstrap draws.
        seed: of the draws.

    Raises:
        ValueError: a ranking's length does not fit.
    """
    measured = ~np.isnan(logprob_drop)
    drawn = _draws(int(measured.sum()), resamples, seed)
    found = {}
    for name, ranking in rankings.items():
        blocks = ranking if block_of_patch is None else block_mean(ranking, block_of_patch)
        if blocks.shape != logprob_drop.shape:
            raise ValueError(
                f"The ranking {name!r} is of {len(blocks)} patches or blocks, the log-prob drop of {len(logprob_drop)}."
            )
        found[name] = _agreement(blocks[measured], logprob_drop[measured], drawn)
    return found


def in_drawn_order(values: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """int64 [D, P], ranks of P places by value, what is equal in a drawn order: a ranking must put it in some.

    Args:
        values: [P].
        draws: float [D, P], random numbers.
    """
    return np.stack([np.lexsort((draw, values)).argsort() for draw in draws])


def object_agreement(
    coverage: np.ndarray,
    logprob_drop: np.ndarray,
    block_of_patch: np.ndarray | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Agreement:
    """What a ranking would reach that knew where the object asked about is, and nothing else; as in the benchmark.

    Blocks rank by how much of the object's pixels they show, and those that show equally much (most show none) in an
    order that is drawn: mean over `DRAWS` of them, of the correlation and of both ends of its interval.

    Args:
        coverage: float [N], the share of each patch that shows the object.
        logprob_drop, block_of_patch, resamples, seed: as for `rank_agreement`.

    Raises:
        ValueError: as for `rank_agreement`.
    """
    blocks = np.arange(len(coverage)) if block_of_patch is None else block_of_patch
    shown = np.bincount(blocks, coverage) / np.bincount(blocks).clip(min=1)
    drawn = in_drawn_order(shown, np.random.default_rng(seed).random((DRAWS, len(shown))))
    rankings = {str(draw): ranking for draw, ranking in enumerate(drawn)}
    found = list(rank_agreement(rankings, logprob_drop, None, resamples, seed).values())
    value, low, high = (float(np.mean([getattr(one, end) for one in found])) for end in ("value", "low", "high"))
    return Agreement(value, low, high, found[0].count)


def _agreement(ranking: np.ndarray, logprob_drop: np.ndarray, drawn: np.ndarray) -> Agreement:
    """Spearman's correlation over N places, and its interval over the places drawn, int64 [R, N]."""
    value = float(row_spearman(ranking, logprob_drop)) if len(ranking) > 1 else np.nan
    if np.isnan(value):
        return Agreement(np.nan, np.nan, np.nan, len(ranking))
    low, high = np.nanquantile(row_spearman(ranking[drawn], logprob_drop[drawn]), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Agreement(value, float(low), float(high), len(ranking))


def _draws(count: int, resamples: int, seed: int) -> np.ndarray:
    """int64 [R, N], which of N places are in each of R draws of N with replacement, ascending."""
    if count == 0:
        return np.zeros((resamples, 0), np.int64)
    often = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=resamples)
    places = np.broadcast_to(np.arange(count), often.shape)
    return np.repeat(places.ravel(), often.ravel()).reshape(resamples, count)


def validity(agreements: Mapping[str, Agreement], kept: Mapping[str, float]) -> Agreement:
    """Whether a check is one of anything: across criteria, Spearman between their agreement with it and what they keep.

    Args:
        agreements: by criterion, as from `rank_agreement`.
        kept: by criterion, how well its cut keeps the answer, such as the full answer's log-prob; NaN: not known.

    Returns:
        The correlation without an interval (criteria are no sample); `count` criteria have both.
    """
    names = [name for name in agreements if np.isfinite(agreements[name].value) and np.isfinite(kept.get(name, np.nan))]
    if len(names) < 3:
        return Agreement(np.nan, np.nan, np.nan, len(names))
    pairs = np.array([(agreements[name].value, kept[name]) for name in names])
    return Agreement(float(row_spearman(*pairs.T)), np.nan, np.nan, len(names))


def curve_area(share: np.ndarray, logprob: np.ndarray, full: float, no_image: float) -> float:
    """Area under a deletion or insertion curve, by the trapezoid rule, over the range of `share`.

    The log-prob is first put on a scale on which the full picture is 1 and no picture 0; it may leave that range. A low
    area of a deletion curve, or a high one of an insertion curve, means that the first patches carried the answer.

    Args:
        share: float [F], share of patches removed (or shown), ascending.
        logprob: float [F], the answer's log-prob there.
        full: log-prob with the full picture.
        no_image: log-prob with no visual token.

    Returns:
        NaN where the picture makes no difference (full equals no_image), or some log-prob is not measured.
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
        exact_match: bool [K], whether the answer was the same.
    """
    order = np.argsort(-np.asarray(tokens), kind="stable")
    budgets, held = np.asarray(tokens)[order], np.asarray(exact_match, bool)[order]
    first = int(np.argmin(held)) if not held.all() else len(held)
    return FlipPoint(
        kept_down_to=int(budgets[first - 1]) if first else None,
        flips_at=int(budgets[first]) if first < len(held) else None,
        returns_at=tuple(int(budget) for budget in budgets[first:][held[first:]]),
    )
