"""SparseVLM's recycling (version 1): the best of the pruned tokens are merged into a few new ones.

Clusters are found by density peaks (DPC-KNN): a centre is a token with many near ones that is far from any token of
higher density. Pure tensor functions.
"""

from __future__ import annotations

import torch
from torch import Tensor

BEST_SHARE = 0.3
"""Of the pruned tokens, those that are merged; one more is always."""
PER_CLUSTER = 10
"""Tokens that one new token stands for, on average; there is one new token more."""
NOISE = 1e-6
"""Parts tokens of equal density."""
NOISE_SEED = 0


def noise_source() -> torch.Generator:
    """The stream of noise for one picture, the same for every picture."""
    return torch.Generator().manual_seed(NOISE_SEED)


def recycle(states: Tensor, scores: Tensor, noise: torch.Generator) -> tuple[Tensor, Tensor]:
    """New tokens from pruned ones.

    Args:
        states: [p, width], hidden states of the tokens pruned at one step.
        scores: [p], what they were ranked by.
        noise: the picture's stream.

    Returns:
        [m, width] the new tokens; int64 [m], which pruned token is the centre of each one's cluster.
    """
    best = scores.topk(int(len(scores) * BEST_SHARE) + 1).indices.to(states.device)
    tokens = states[best]
    count = len(best) // PER_CLUSTER + 1
    distance = (tokens[:, None] - tokens[None]).float().norm(dim=-1) / tokens.shape[1] ** 0.5
    centres = _centres(distance, count, noise)
    cluster = distance[centres].argmin(dim=0)
    cluster[centres] = torch.arange(count, device=cluster.device)
    sizes = tokens.new_zeros(count).index_add_(0, cluster, tokens.new_ones(len(tokens)))
    shares = 1 / (sizes + 1e-6)  # as released: a mean but for the millionth
    merged = tokens.new_zeros(count, tokens.shape[1])
    return merged.index_add_(0, cluster, tokens * shares[cluster, None]), best[centres]


def _centres(distance: Tensor, count: int, noise: torch.Generator) -> Tensor:
    """int64 [count], tokens of high density far from denser ones; `distance` float32 [n, n]."""
    nearest = distance.topk(count, dim=-1, largest=False).values
    density = (-(nearest**2).mean(dim=-1)).exp()
    density = density + torch.rand(1, len(density), generator=noise)[0].to(density) * NOISE
    denser = density[None] > density[:, None]
    to_denser = distance.where(denser, distance.max()).min(dim=-1).values
    return (to_denser * density).topk(count).indices
