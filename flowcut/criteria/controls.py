"""Controls: what any method must beat. They need no evidence."""

from __future__ import annotations

import numpy as np

from flowcut.criteria.evidence import Budget, Evidence
from flowcut.errors import InvalidCut

LARGEST_STRETCH = 2.0
"""How much longer one side of a coarse grid may be than the other, measured against the picture's own."""


def random(evidence: Evidence, cut: Budget) -> np.ndarray:
    """float64 [B, N]: patches drawn without replacement, the first drawn highest; seeded.

    One stream for the batch, or the same draw for each image if per image.
    """
    stream = np.random.default_rng(cut.seed)
    ranking = np.empty((evidence.batch, evidence.n_patches))
    for row in ranking:
        image_stream = np.random.default_rng(cut.seed) if cut.per_image else stream
        row[image_stream.permutation(evidence.n_patches)] = -np.arange(evidence.n_patches)
    return ranking


def stride(evidence: Evidence, cut: Budget) -> np.ndarray:
    """float64 [B, N]: 1 for every N/T-th patch in reading order, floor(i N / T) for i = 0 .. T-1, 0 for the rest."""
    ranking = np.zeros((evidence.batch, evidence.n_patches))
    ranking[:, np.arange(cut.tokens) * evidence.n_patches // cut.tokens] = 1
    return ranking


def chosen(evidence: Evidence, cut: Budget) -> np.ndarray:
    """float64 [B, N]: 1 for the patches that someone chose by hand, the same in every image, 0 for the rest.

    Raises:
        InvalidCut: one of them is not on the grid.
    """
    assert cut.patches is not None
    if cut.patches[-1] >= evidence.n_patches:
        raise InvalidCut(
            f"patches holds {cut.patches[-1]} and this picture has {evidence.n_patches}: "
            f"choose among 0 to {evidence.n_patches - 1}."
        )
    ranking = np.zeros((evidence.batch, evidence.n_patches))
    ranking[:, list(cut.patches)] = 1
    return ranking


def coarse_grid(rows: int, cols: int, tokens: int) -> tuple[int, int]:
    """Rows and columns of the grid of at most T patches that a picture of `rows` x `cols` patches is scaled down to.

    As many patches as can be, stretching the picture by at most 2 to 1; of several such grids the least stretched.
    """
    found = [(r, c) for r in range(1, rows + 1) for c in [min(cols, tokens // r)] if c]
    usable = [grid for grid in found if _stretch(grid, rows, cols) <= LARGEST_STRETCH] or [(1, 1)]
    return max(usable, key=lambda grid: (grid[0] * grid[1], -_stretch(grid, rows, cols)))


def _stretch(grid: tuple[int, int], rows: int, cols: int) -> float:
    taller = (grid[0] / rows) / (grid[1] / cols)
    return max(taller, 1 / taller)
