"""Editing a mask by hand: what is kept after some edits, and which patches to swap so that the budget stays equal."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def after_edits(base: np.ndarray, edits: Sequence[Sequence[int]]) -> np.ndarray:
    """int64, ascending: the patches kept once each edit in turn has toggled its patches.

    Args:
        base: int64 [T], patches kept before any edit.
        edits: patch ids toggled together, one entry an edit.
    """
    kept = set(base.tolist())
    for edit in edits:
        kept ^= set(edit)
    return np.array(sorted(kept), dtype=np.int64)


def equal_count_swap(base: np.ndarray, kept: np.ndarray, ranking: np.ndarray) -> np.ndarray:
    """int64, ascending: patches to toggle so that as many are kept as in `base`; none where they already are.

    Where too many are kept, the lowest ranked of those that `base` kept go; where too few, the highest ranked of those
    that `base` cut come back. Patches that were edited by hand are left alone, so that the swap never undoes an edit.

    Args:
        base: int64 [T], patches kept before any edit.
        kept: int64, patches kept now.
        ranking: float [N], higher is kept longer; of equal ones the first in reading order counts as higher.
    """
    surplus = len(kept) - len(base)
    untouched = np.intersect1d(base, kept) if surplus > 0 else _untouched_cut(base, kept, len(ranking))
    highest_first = untouched[np.argsort(-ranking[untouched], kind="stable")]
    return np.sort(highest_first[::-1][:surplus] if surplus > 0 else highest_first[: -surplus or 0])


def _untouched_cut(base: np.ndarray, kept: np.ndarray, n_patches: int) -> np.ndarray:
    return np.setdiff1d(np.arange(n_patches), np.union1d(base, kept))
