"""What criteria inside a language model look at, as pure tensor functions on one decoder layer's queries and keys."""

from __future__ import annotations

import torch
from torch import Tensor

from flowcut.criteria.flowcut import Criteria


def visual_criteria(query: Tensor, own_value: Tensor, key: Tensor, value: Tensor, scaling: float) -> Criteria:
    """What one text token's flow says of the visual tokens: softmaxes over the visual tokens alone, in float32.

    Args:
        query, own_value: [B, H, d], query (after rotary embedding) and value of the last instruction token.
        key, value: [B, G, N, d], those of the visual tokens; G key/value heads, repeated to H where they are grouped.
        scaling: the attention's own factor on the logits; the similarity of values has 1/sqrt(d).

    Returns:
        Criteria: float32 [B, N] each; `score` is (rel + sem) w.
    """
    groups = query.shape[1] // key.shape[1]
    keys, values = (part.float().repeat_interleave(groups, dim=1) for part in (key, value))
    return Criteria(
        relation=_mean_share(query, keys, scaling),
        semantic=_mean_share(own_value, values, value.shape[-1] ** -0.5),
        norm=values.mean(dim=1).abs().sum(dim=-1),
    )


def attention_rows(query: Tensor, key: Tensor, scaling: float, seen: Tensor) -> Tensor:
    """float32 [q, k], head-mean attention of some queries over some keys.

    Args:
        query: [H, q, d], after rotary embedding.
        key: [G, k, d], repeated to H heads where they are grouped.
        seen: bool [q, k], which keys each query sees; each sees one at least.
    """
    keys = key.float().repeat_interleave(len(query) // len(key), dim=0)
    logits = query.float() @ keys.transpose(-1, -2) * scaling
    return logits.masked_fill(~seen, -torch.inf).softmax(dim=-1).mean(dim=0)


def _mean_share(one: Tensor, many: Tensor, scaling: float) -> Tensor:
    """float32 [B, N], head-mean softmax of one [B, H, d] against many [B, H, N, d]; sums to 1."""
    logits = torch.einsum("bhd,bhnd->bhn", one.float(), many) * scaling
    return logits.log_softmax(dim=-1).logsumexp(dim=1).softmax(dim=-1)
