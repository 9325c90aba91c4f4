"""Criteria behind the projector: they choose among the tokens that the language model would read."""

from __future__ import annotations

import numpy as np

from flowcut.criteria.evidence import Budget, Evidence, by_choice, needed, unit

LEAST_RELEVANCE = 1e-6
"""CDPruner's: added in min-max normalisation, so that the least relevant token can still be chosen."""


def divprune(evidence: Evidence, cut: Budget) -> np.ndarray:
    """float64 [B, N], the order in which max-min diversity chooses T tokens, at distance 1 - cosine.

    First the token whose nearest neighbour is farthest, then always the one whose nearest chosen token is farthest.
    """
    chosen = [max_min(1 - vectors @ vectors.T, cut.tokens) for vectors in unit(needed(evidence.features))]
    return np.stack([by_choice(order, evidence.n_patches) for order in chosen])


def max_min(distance: np.ndarray, count: int) -> np.ndarray:
    """int64 [count], ids in the order of their choice; `distance` float64 [N, N]. Of equal ones, the first."""
    apart = distance.copy()
    np.fill_diagonal(apart, np.inf)
    order = [int(apart.min(axis=1).argmax())] if len(apart) > 1 else [0]
    nearest = apart[order[0]].copy()
    nearest[order[0]] = -np.inf
    while len(order) < count:
        order.append(int(nearest.argmax()))
        nearest = np.minimum(nearest, apart[order[-1]])
        nearest[order] = -np.inf
    return np.array(order)


def relevance(patches: np.ndarray, texts: np.ndarray) -> np.ndarray:
    """float64 [N] in (0, 1], CDPruner's relevance: the negative mean cosine to the texts, scaled from min to max.

    As released: CLIP's patch embeddings are LESS like a text the more they show of it, hence the minus.

    Args:
        patches: [N, d], the patches' embeddings in CLIP's joint space.
        texts: [M, d], those of the question's parts.
    """
    unlike = -(unit(patches) @ unit(texts).T).mean(axis=1)
    spread = unlike.max() - unlike.min()
    relevance: np.ndarray = (unlike - unlike.min() + LEAST_RELEVANCE) / (spread if spread > 0 else 1.0)
    return relevance


def conditional_kernel(features: np.ndarray, relevant: np.ndarray) -> np.ndarray:
    """float64 [N, N], CDPruner's kernel: rel_i cos(i, j) rel_j, of projected tokens [N, width]."""
    vectors = unit(features)
    kernel: np.ndarray = relevant[:, None] * (vectors @ vectors.T) * relevant
    return kernel


def dpp_map(kernel: np.ndarray, count: int) -> np.ndarray:
    """int64 [count], ids that greedily make det(kernel of the chosen) largest, in the order of their choice.

    The fast greedy MAP inference for determinantal point processes (Chen et al., NeurIPS 2018, algorithm 1): each step
    takes the token that adds the most volume, `volume` being what is left of it outside the span of the chosen.
    """
    volume = kernel.diagonal().copy()
    rows, order = np.zeros((count, len(kernel))), np.empty(count, dtype=np.int64)
    tiny = np.finfo(np.float64).tiny
    for step in range(count):
        best = int(volume.argmax())
        rows[step] = (kernel[best] - rows[:step, best] @ rows[:step]) / np.sqrt(max(volume[best], tiny))
        volume = np.maximum(volume - rows[step] ** 2, 0.0)  # rounding must not make a volume negative
        order[step] = best
        volume[order[: step + 1]] = -1.0
    return order


def cdpruner(patches: np.ndarray, texts: np.ndarray, features: np.ndarray, count: int) -> np.ndarray:
    """float64 [N], the order in which CDPruner chooses `count` tokens; for whoever has CLIP's text tower.

    Args:
        patches, texts: [N, d] and [M, d], as for `relevance`.
        features: [N, width], the projected tokens.
    """
    kernel = conditional_kernel(features, relevance(patches, texts))
    return by_choice(dpp_map(kernel, count), len(kernel))
