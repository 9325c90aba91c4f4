"""PriorTR: what the question adds to where the picture alone draws attention."""

from __future__ import annotations

import numpy as np

from flowcut.criteria.evidence import Budget, DecoderEvidence, needed

TINY = 1e-10


def third_layer(n_layers: int) -> tuple[int, ...]:
    """PriorTR, K = 3: the layers from 3 on read the kept tokens, so the cut is after layer 2; not scaled."""
    return (min(2, n_layers - 2),)


def priortr(evidence: DecoderEvidence, cut: Budget) -> np.ndarray:
    """float64 [n], P log(P / Q): each token's part in what the last token's attention P says beyond the prior Q.

    Q is the attention of the first text token after the picture, to which what follows, the question, is not visible.
    Both are means over heads, each made to sum to 1 over the visual tokens.
    """
    task, prior = (_shares(needed(one)) for one in (evidence.last_attention, evidence.prior_attention))
    gain: np.ndarray = task * np.log((task + TINY) / (prior + TINY))
    return gain


def _shares(attention: np.ndarray) -> np.ndarray:
    shares: np.ndarray = attention / (attention.sum() + TINY)
    return shares
