"""How much a ranking of the patches is like their ranking by what the answer loses without them. No torch."""

from __future__ import annotations

import numpy as np
from scipy.stats import rankdata, spearmanr


def block_ranks(ranking: np.ndarray, block_of_patch: np.ndarray) -> np.ndarray:
    """float64 [P], the mean rank of each block's patches; patches of equal rank share theirs.

    Ranks and not the numbers themselves, so that one outlier does not decide for its block.
    """
    return np.asarray(np.bincount(block_of_patch, rankdata(ranking)) / np.bincount(block_of_patch))


def spearman(ranking: np.ndarray, block_of_patch: np.ndarray, logprob_drop: np.ndarray) -> float:
    """Spearman's rank correlation of a ranking [N], block by block, with the falls [P]; NaN where one is constant."""
    ranks = block_ranks(ranking, block_of_patch)
    if np.ptp(ranks) == 0 or np.ptp(logprob_drop) == 0:
        return float("nan")
    return float(spearmanr(ranks, logprob_drop).statistic)
