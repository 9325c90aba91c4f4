"""Criteria that choose a set of tokens that stands for all of them: SCOPE and OTPrune."""

from __future__ import annotations

import numpy as np

from flowcut.criteria.evidence import Budget, Evidence, by_choice, needed, unit
from flowcut.criteria.projector import dpp_map

ALIGNMENT = 0.01
"""OTPrune's gamma: the weight of what the chosen share with all tokens, against the identity."""


def scope(evidence: Evidence, cut: Budget) -> np.ndarray:
    """float64 [B, N], the order in which SCOPE chooses T patches at the feature layer.

    Always the patch that most raises how well all patches are covered, times its CLS attention (exponent 1). A patch is
    covered as far as the most similar of the chosen is like it, by cosine, from 0 on.
    """
    pairs = zip(unit(needed(evidence.features)), needed(evidence.cls_attention), strict=True)
    orders = [covering(vectors @ vectors.T, saliency, cut.tokens) for vectors, saliency in pairs]
    return np.stack([by_choice(order, evidence.n_patches) for order in orders])


def covering(cosine: np.ndarray, saliency: np.ndarray, count: int) -> np.ndarray:
    """int64 [count], ids in the order of their choice; `cosine` float64 [N, N], `saliency` [N]. Of equal ones, the
    first."""
    covered, is_free, order = np.zeros(len(cosine)), np.ones(len(cosine), dtype=bool), []
    for _ in range(count):
        gain = np.maximum(cosine - covered[:, None], 0.0).sum(axis=0) * saliency
        order.append(int(np.where(is_free, gain, -np.inf).argmax()))
        is_free[order[-1]] = False
        covered = np.maximum(covered, cosine[order[-1]])
    return np.array(order)


def otprune(evidence: Evidence, cut: Budget) -> np.ndarray:
    """float64 [B, N], the order in which OTPrune chooses T projected tokens.

    The set whose distribution is closest to that of all tokens is relaxed to the one of largest determinant of
    I + gamma A A', greedily; A = V V' with V the tokens, [N, width]. As released, V is scaled so that each channel has
    length 1 over the tokens, not each token over its channels.
    """
    chosen = [dpp_map(aligned_kernel(tokens), cut.tokens) for tokens in needed(evidence.features)]
    return np.stack([by_choice(order, evidence.n_patches) for order in chosen])


def aligned_kernel(tokens: np.ndarray) -> np.ndarray:
    """float64 [N, N], I + gamma A A' of tokens [N, width]."""
    channels = unit(tokens.T)
    alike = channels.T @ channels
    kernel: np.ndarray = np.eye(len(tokens)) + ALIGNMENT * (alike @ alike.T)
    return kernel
