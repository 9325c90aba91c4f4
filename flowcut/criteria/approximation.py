"""ApET: tokens that cannot be put together from a few others stay, at the feature layer and again in the decoder."""

from __future__ import annotations

import numpy as np

from flowcut.criteria.decoder import scaled_layers
from flowcut.criteria.evidence import Budget, DecoderEvidence, Evidence, highest, needed, unit

BASIS = 10
"""Tokens from which all others are put together."""
RIDGE = 1e-5


def apet(evidence: Evidence, cut: Budget) -> np.ndarray:
    """float64 [B, N], ApET at the feature layer: 10 basis patches above all, then by the error of putting each together
    from these."""
    return np.stack([basis_then_error(features, cut.tokens) for features in needed(evidence.features)])


def apet_layers(n_layers: int) -> tuple[int, ...]:
    """ApET's second cut: before layer 16 of 32, scaled."""
    return scaled_layers((16,), n_layers)


def apet_states(evidence: DecoderEvidence, cut: Budget) -> np.ndarray:
    """float64 [n], the same of the hidden states after a decoder layer."""
    return basis_then_error(needed(evidence.visual_hidden), cut.tokens)


def basis_then_error(features: np.ndarray, tokens: int) -> np.ndarray:
    """float64 [N], basis tokens in the order of their choice, from 2 down to above 1; the others by error, at most 1.

    Args:
        features: [N, width].
        tokens: T; there are no more basis tokens than that.
    """
    basis = farthest_points(features, min(BASIS, len(features)))
    error = approximation_error(features, features[basis])
    ranking: np.ndarray = error / max(error.max(), np.finfo(float).tiny)
    kept = basis[:tokens]
    ranking[kept] = 2 - np.arange(len(kept)) / BASIS
    return ranking


def farthest_points(points: np.ndarray, count: int) -> np.ndarray:
    """int64 [count], farthest point sampling of [N, width]: first the point farthest from the mean, then always the one
    farthest from those chosen. Of equal ones, the first."""
    order, distance = [], ((points - points.mean(axis=0)) ** 2).sum(axis=1)
    nearest = np.full(len(points), np.inf)
    for _ in range(count):
        order.append(int(distance.argmax()))
        nearest = np.minimum(nearest, ((points - points[order[-1]]) ** 2).sum(axis=1))
        distance = np.where(np.isin(np.arange(len(points)), order), -1.0, nearest)
    return np.array(order)


def approximation_error(features: np.ndarray, basis: np.ndarray) -> np.ndarray:
    """float64 [N], the distance of each token, [N, width], from its ridge regression on the basis, [k, width]."""
    gram = basis @ basis.T + RIDGE * np.eye(len(basis))
    weights = np.linalg.solve(gram, basis @ features.T)
    error: np.ndarray = np.linalg.norm(features - weights.T @ basis, axis=1)
    return error


def apet_joins(evidence: Evidence, cut: Budget, ranking: np.ndarray) -> np.ndarray:
    """int64 [B, N], the kept patch that each cut one is merged into, the most alike by cosine that is no basis patch;
    -1: none."""
    joins = np.full(ranking.shape, -1)
    kept = highest(ranking, cut.tokens)
    for row, ranks, own, vectors in zip(joins, ranking, kept, unit(needed(evidence.features)), strict=True):
        targets, others = own[ranks[own] <= 1], np.setdiff1d(np.arange(len(ranks)), own)
        if len(targets):
            row[others] = targets[(vectors[others] @ vectors[targets].T).argmax(axis=1)]
    return joins
