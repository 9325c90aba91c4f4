"""FlowCut (arXiv 2505.19536): its three criteria and their score, and how many patches go after which layer.

The score is pure tensor functions on one vision layer's queries, keys and values; the schedule is plain arithmetic.

B batch, H heads, d head width, token axis N+1 = CLS first, then N patches. Where an encoder has no CLS token, a proxy
stands at its place (`with_proxy`): it asks, but has no key and is no candidate. Everything is computed in float32
whatever the model's dtype, and in the log domain, so that a weight that underflows stops nothing (the released code
turns NaN).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Criteria:
    """What FlowCut weighs in one layer; float32 [B, N], patches alone."""

    relation: Tensor
    """a^: share of what CLS gathers; sums to 1."""
    semantic: Tensor
    """s^: share of the value similarity to CLS; sums to 1."""
    norm: Tensor
    """w: L1 norm of the head-mean value."""

    @property
    def score(self) -> Tensor:
        """S = (a^ + s^) w."""
        return (self.relation + self.semantic) * self.norm


def criteria(query: Tensor, key: Tensor, value: Tensor, scaling: float, variant: str, proxy: bool = False) -> Criteria:
    """The three criteria of one layer, from [B, H, N+1, d] each; `scaling` is the attention's own, 1/sqrt(d).

    With `proxy`, token 0 is that of `with_proxy`, and both variants' softmaxes run over the patches alone.
    """
    similarity_scaling = 1.0 if variant == "official" else value.shape[-1] ** -0.5
    return Criteria(
        relation=patch_shares(cls_logits(query, key, scaling, proxy), variant),
        semantic=patch_shares(cls_logits(value, value, similarity_scaling, proxy), variant),
        norm=value_norm(value)[:, 1:],
    )


def cls_logits(query: Tensor, key: Tensor, scaling: float, proxy: bool = False) -> Tensor:
    """float32 [B, H, N+1], the logits of the CLS row: q_cls . k times `scaling`. With values for both: similarity.

    A proxy cannot be attended to, nor be like itself: its own logit is -inf.
    """
    logits = torch.einsum("bhd,bhnd->bhn", query[:, :, 0].float(), key.float()) * scaling
    return nn.functional.pad(logits[..., 1:], (1, 0), value=-math.inf) if proxy else logits


def with_proxy(tokens: Tensor) -> Tensor:
    """float32 [..., N+1, d]: the mean of the N patches' vectors [..., N, d] put before them, as a CLS token would be.

    Of the queries (after rotary embedding) and of the values it is the global query that stands in for CLS.
    """
    tokens = tokens.float()
    return torch.cat([tokens.mean(dim=-2, keepdim=True), tokens], dim=-2)


def group_positions(patch_ids: Tensor, grid_cols: int, side: int) -> Tensor:
    """int64 [B, N / side^2, side^2]: where among the kept, [B, N], each square of patches lies, in reading order.

    Squares of `side` x `side` patches are whole: all of their patches are kept, or none.
    """
    row, column = patch_ids // grid_cols, patch_ids % grid_cols
    square = row // side * (grid_cols // side) + column // side
    return square.argsort(dim=1, stable=True).view(len(patch_ids), -1, side * side)


def group_mean(values: Tensor, positions: Tensor) -> Tensor:
    """[B, groups], the mean over each group of values [B, N]; `positions` as from `group_positions`."""
    return values.gather(1, positions.flatten(1)).view(positions.shape).mean(dim=-1)


def ungroup(values: Tensor, positions: Tensor) -> Tensor:
    """[B, N], each patch with its group's value of [B, groups]."""
    spread = values[..., None].expand(positions.shape).flatten(1)
    return torch.empty_like(spread).scatter(1, positions.flatten(1), spread)


def patch_shares(logits: Tensor, variant: str) -> Tensor:
    """float32 [B, N], head-mean softmax of the CLS row, CLS dropped, the rest summing to 1.

    `official` takes the softmax over CLS and patches, `paper` over the patches alone: a head that looks mostly at CLS
    itself then counts less, or in full.
    """
    weighed = logits if variant == "official" else logits[..., 1:]
    log_weights = weighed.log_softmax(dim=-1)[..., -(logits.shape[-1] - 1) :]
    return log_weights.logsumexp(dim=1).softmax(dim=-1)


def value_norm(value: Tensor) -> Tensor:
    """float32 [B, N+1], L1 norm of each token's value vector, averaged over heads first."""
    return value.float().mean(dim=1).abs().sum(dim=-1)


def accumulate(cumulative: Tensor | None, score: Tensor) -> Tensor:
    """C: the score itself at the first scored layer, then half the past and half of now; never renormalised."""
    return score if cumulative is None else 0.5 * cumulative.to(score.device) + 0.5 * score


def entropy_ratio(shares: Tensor) -> Tensor:
    """float64 [B] on the CPU, E = -sum(a^ ln a^) / ln N of shares [B, N], with 0 ln 0 = 0; N is at least 2."""
    ratio: Tensor = torch.special.entr(shares.cpu().double()).sum(dim=-1) / math.log(shares.shape[-1])
    return ratio


def nearest_kept(value: Tensor, kept: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of each pruned patch, the kept one whose value vector, all heads joined, is most like its own.

    Args:
        value: [B, H, N, d], of the patches alone.
        kept: int64 [B, N'], places of those that are kept; at least one.

    Returns:
        int64 [B, N - N'] places of the pruned, ascending; int64 places of the nearest kept; float32 cosines.
    """
    batch, _, count, _ = value.shape
    goes = torch.ones(batch, count, dtype=torch.bool, device=value.device).scatter_(1, kept, False)
    gone = goes.nonzero()[:, 1].view(batch, count - kept.shape[1])
    unit = nn.functional.normalize(value.float().transpose(1, 2).flatten(2), dim=-1)  # [B, N, H d]
    going, staying = (unit.gather(1, at[..., None].expand(-1, -1, unit.shape[-1])) for at in (gone, kept))
    best = (going @ staying.mT).max(dim=-1)
    return gone, kept.gather(1, best.indices), best.values


def highest(scores: Tensor, count: int) -> Tensor:
    """int64 [B, count], where the highest of [B, N] lie, ascending; of equal scores the first ones are kept."""
    strongest_first = scores.argsort(dim=-1, descending=True, stable=True)
    return strongest_first[:, :count].sort(dim=-1).values


def prunes_after(layer: int, feature_layer: int) -> bool:
    """Whether FlowCut has a prune point after `layer` (from 0): every second one, counted back from the last.

    The last is the layer before the feature layer, so that the feature layer already runs on T patches.
    """
    remaining = feature_layer - 1 - layer
    return remaining >= 0 and remaining % 2 == 0


def requested_count(entropy_ratio: float, n_kept: int, target: int, remaining: int) -> float:
    """Patches that FlowCut requests to remove after a layer, before rounding (paper, adaptive pruning ratio).

    Args:
        entropy_ratio: E = H(relation shares) / ln N in [0, 1]; flat attention (E = 1) requests none.
        n_kept: N, patches kept at this layer's input.
        target: T, patches to be left at the end.
        remaining: R > 0, layers left until the last prune.
    """
    return (n_kept - target) / math.sqrt(remaining) * (1.0 - entropy_ratio**2)


def equal_count(n_kept: int, target: int, remaining: int) -> float:
    """Patches pruned after a layer where the same number is at every prune point, before rounding (an ablation).

    Args:
        n_kept, target, remaining: as for `requested_count`; prune points lie `remaining`, `remaining` - 2, ..., 0
            layers before the last one.
    """
    return (n_kept - target) / (remaining // 2 + 1)


def kept_after(requested: float, n_kept: int, target: int) -> int:
    """Patches left once `requested` (rounded half to even, as released) are pruned; never below the target."""
    return max(n_kept - round(requested), target)
