"""What single blocks add to an answer, from random sets of blocks: the sets, the regression, and how far to trust it.

Pure numpy. The effect of a block is the coefficient of its inclusion in a ridge regression of the answer's log-odds
over many random sets: what it adds on average among others drawn at random (near the Banzhaf value of game theory, at
sets of the size of the budget). Products of the strongest blocks stand beside them, so that what those do together is
no noise on the others. The penalty is the one of least generalised cross-validation (Golub, Heath and Wahba,
1979).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import spearmanr

PENALTIES = np.logspace(-3, 4, 57)
"""Penalties that are tried, in units of the mean eigenvalue."""
PAIRED = 16
"""Strongest blocks whose products are regressed on too."""
SEEN_TOGETHER = 4
"""Sets that must hold both blocks of a product."""


def random_rounds(n_blocks: int, sizes: Sequence[int], rng: np.random.Generator) -> Iterator[np.ndarray]:
    """bool [k, P], for ever: random sets of blocks, a round of them at a time.

    With one size a round is a random partition of the blocks into sets of that size (what is left over is dropped), so
    that every block comes as often as any other; with several it is one random set of each size.
    """
    while True:
        if len(sizes) == 1:
            order = rng.permutation(n_blocks)
            sets = [order[begin : begin + sizes[0]] for begin in range(0, n_blocks - sizes[0] + 1, sizes[0])]
        else:
            sets = [rng.permutation(n_blocks)[:size] for size in sizes]
        included = np.zeros((len(sets), n_blocks), bool)
        for row, chosen in zip(included, sets, strict=True):
            row[chosen] = True
        yield included


@dataclass(frozen=True, eq=False)
class Fit:
    """A ridge regression of Q outcomes on the inclusion of P blocks."""

    effect: np.ndarray
    """float64 [Q, P], what a block adds to each outcome."""
    explained: np.ndarray
    """float64 [Q], share of an outcome's variance within sets of one size that is foreseen for a set left out, by
    generalised cross-validation; at 0 or below the effects foresee nothing."""


def ridge(included: np.ndarray, outcome: np.ndarray, paired: int = PAIRED) -> Fit:
    """Fit outcomes [n, Q] by the inclusion of blocks, bool [n, P]; sets are compared within those of their own size.

    The strongest blocks often stand in for each other, and what they do only together would be noise on all the rest:
    the products of the `paired` strongest are regressed on as well, and what they add to a block on average over random
    sets is counted to it. 0: blocks alone.
    """
    sizes, outcome = included.sum(axis=1), np.asarray(outcome, np.float64)
    x, y, levels = _within_sizes(included.astype(np.float64), outcome, sizes)
    effect, explained = _penalised(x, y, levels)
    if paired:
        met = float(np.mean((sizes - 1) / (included.shape[1] - 1)))
        for question in range(len(effect)):
            strongest = np.argsort(-np.abs(effect[question]), kind="stable")[:paired]
            refit = _with_pairs(included, y[:, [question]], sizes, strongest, met)
            effect[question], explained[question] = refit
    return Fit(effect, explained)


def _with_pairs(
    included: np.ndarray, y: np.ndarray, sizes: np.ndarray, strongest: np.ndarray, met: float
) -> tuple[np.ndarray, float]:
    """Effects [P] of one outcome, and its explained share, with products of the strongest blocks beside the blocks.

    Args:
        included: bool [n, P].
        y: float [n, 1], within sizes.
        sizes: int [n].
        strongest: int [K].
        met: how likely another block is there where one is: what a product adds to each of its two on average.
    """
    first, second = (strongest[side] for side in np.triu_indices(len(strongest), 1))
    together = included[:, first] & included[:, second]
    seen = together.sum(axis=0) >= SEEN_TOGETHER
    x, _, levels = _within_sizes(np.hstack([included, together[:, seen]]).astype(np.float64), y, sizes)
    found, explained = _penalised(x, y, levels)
    effect, products = found[0, : included.shape[1]].copy(), met * found[0, included.shape[1] :]
    np.add.at(effect, first[seen], products)
    np.add.at(effect, second[seen], products)
    return effect, float(explained[0])


def _penalised(x: np.ndarray, y: np.ndarray, levels: int) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients [Q, P] of y [n, Q] on x [n, P], both within sizes, at the best penalty; and what they explain, [Q].

    `levels` is how many means were taken off.
    """
    values, vectors = np.linalg.eigh(x.T @ x)
    values = values.clip(0)
    along, total = vectors.T @ (x.T @ y), (y * y).sum(axis=0)
    shrunk = 1 / (values[:, None] + (values.mean() or 1.0) * PENALTIES)  # [P, penalties]
    kept = values[:, None] * shrunk
    left = total[:, None] - (along * along).T @ (shrunk * (2 - kept))  # residual sums of squares, [Q, penalties]
    freedom = 1 - (levels + kept.sum(axis=0)) / len(x)
    score = np.where(freedom > 0, left / np.where(freedom > 0, freedom, 1) ** 2, np.inf)
    best = score.argmin(axis=1)
    effect = vectors @ (along * shrunk[:, best])
    baseline = total / max(1 - levels / len(x), 1e-9) ** 2
    error = np.take_along_axis(score, best[:, None], axis=1)[:, 0]
    explained = 1 - np.divide(error, baseline, out=np.ones_like(error), where=baseline > 0)
    return effect.T, explained


def _within_sizes(x: np.ndarray, y: np.ndarray, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """Both less their means over the sets of the same size, and how many sizes there are."""
    x, y, found = x.copy(), y.copy(), np.unique(sizes)
    for size in found:
        here = sizes == size
        x[here] -= x[here].mean(axis=0)
        y[here] -= y[here].mean(axis=0)
    return x, y, len(found)


def split_half(included: np.ndarray, outcome: np.ndarray, rounds: np.ndarray) -> np.ndarray:
    """float64 [Q], Spearman's correlation between the effects of the even and of the odd rounds; NaN: one is unknown.

    Args:
        included: bool [n, P].
        outcome: float [n, Q].
        rounds: int [n], the round of each set: no round is in both halves, since its sets depend on each other.
    """
    even = rounds % 2 == 0
    if min(even.sum(), (~even).sum()) < 2:
        return np.full(outcome.shape[1], np.nan)
    first, second = (ridge(included[half], outcome[half]).effect for half in (even, ~even))
    pairs = zip(first, second, strict=True)
    return np.array([spearmanr(a, b).statistic if np.ptp(a) > 0 and np.ptp(b) > 0 else np.nan for a, b in pairs])


def full_length(half: np.ndarray | float) -> np.ndarray:
    """The reliability of all rounds together from the correlation of two halves (Spearman and Brown, 1910).

    2 r / (1 + r); halves that contradict each other are left as they are.
    """
    agreement = np.asarray(half, np.float64)
    return np.where(agreement > 0, 2 * agreement / (1 + np.abs(agreement)), agreement)
