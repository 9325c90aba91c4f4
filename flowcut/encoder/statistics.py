"""One layer's attention summed up without holding it: the N x N matrix of a head is walked 128 queries at a time."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from flowcut.hooks.precision import full_precision
from flowcut.records.vision import CLS_ID, PADDING_ID

QUERY_BLOCK = 128
STRONGEST = 4


@dataclass(frozen=True)
class AttentionStatistics:
    """One layer's attention, summed up. Shapes and meanings are those of the fields of the same name in LayerFlow."""

    cls_column: Tensor
    received_mass: Tensor
    received_by_head: Tensor
    row_entropy: Tensor
    attention_distance: Tensor
    top_source_ids: Tensor
    top_source_weights: Tensor
    top_destination_id: Tensor
    top_destination_weight: Tensor
    head_mean: Tensor | None


def stream_statistics(
    query: Tensor,
    key: Tensor,
    scaling: float,
    patch_ids: Tensor,
    grid_cols: int,
    matrices: bool = False,
    *,
    proxy: bool = False,
    windows: Tensor | None = None,
) -> AttentionStatistics:
    """Walk the queries in blocks, softmax in float32, and keep only what a record keeps.

    Args:
        query, key: [B, H, N+1, d], CLS first.
        scaling: the attention's own factor on the logits.
        patch_ids: int64 [B, N], where each patch lies on the grid.
        grid_cols: patches in a row of the grid.
        matrices: whether to keep the head-mean matrix too, in float16.
        proxy: token 0 is not the model's own: nothing attends to it, and its query counts in its own row alone.
        windows: int64 [B, N], the window within which each patch attends; None: one for all.
    """
    tokens = query.shape[2]
    streams = _Streams.empty(query, patch_ids, grid_cols, matrices, proxy)
    keys = key.float().transpose(-1, -2)
    for start in range(0, tokens, QUERY_BLOCK):
        block = query[:, :, start : start + QUERY_BLOCK].float()
        logits = block @ keys * scaling
        hidden = _hidden_keys(start, block.shape[2], tokens, proxy, windows, query.device)
        if hidden is not None:
            logits = logits.masked_fill(hidden, -math.inf)
        streams.add(start, logits.softmax(dim=-1))
    return streams.finish()


def column_mean(
    query: Tensor, key: Tensor, scaling: float, *, proxy: bool = False, windows: Tensor | None = None
) -> Tensor:
    """float32 [B, N+1], head-mean attention that a token receives, mean over the model's own queries.

    Args: as for `stream_statistics`.
    """
    tokens = query.shape[2]
    first = 1 if proxy else 0  # a proxy's query is not the model's own
    received = torch.zeros(len(query), tokens, dtype=torch.float32, device=query.device)
    keys = key.float().transpose(-1, -2)
    with full_precision(query.device):
        for start in range(first, tokens, QUERY_BLOCK):
            block = query[:, :, start : start + QUERY_BLOCK].float()
            logits = block @ keys * scaling
            hidden = _hidden_keys(start, block.shape[2], tokens, proxy, windows, query.device)
            if hidden is not None:
                logits = logits.masked_fill(hidden, -math.inf)
            received += logits.softmax(dim=-1).mean(dim=1).sum(dim=1)
    return received / (tokens - first)


def head_value_norm(value: Tensor) -> Tensor:
    """float32 [B, N+1], L1 norm of each head's own value vector, mean over heads; `value` is [B, H, N+1, d].

    FlowCut's w takes the norm after averaging: heads of opposite sign cancel there, and do not here.
    """
    return value.float().abs().sum(dim=-1).mean(dim=1)


def _hidden_keys(
    start: int, count: int, tokens: int, proxy: bool, windows: Tensor | None, device: torch.device
) -> Tensor | None:
    """bool, broadcast over [B, H, count, tokens]: what queries `start`, ... do not see; None: they see everything."""
    if not proxy and windows is None:
        return None
    hidden = torch.zeros(1, count, tokens, dtype=torch.bool, device=device)
    if windows is not None:
        everywhere = -1  # token 0 belongs to no window: it sees all, and all see it
        window = nn.functional.pad(windows, (1, 0), value=everywhere)
        here = window[:, start : start + count, None]
        hidden = (here != window[:, None]) & (here != everywhere) & (window[:, None] != everywhere)
    if proxy:
        hidden[..., 0] = True
    return hidden[:, None]


@dataclass
class _Streams:
    """Running sums over blocks of queries; `weights` is one block's attention, float32 [B, H, block, N+1]."""

    proxy: bool
    """Whether token 0's query is to be left out of the sums over queries."""
    token_ids: Tensor
    places: Tensor
    """float32 [B, N, 2], row and column of each patch."""
    cls_column: list[Tensor]
    source_weights: list[Tensor]
    source_ids: list[Tensor]
    received: Tensor
    """float32 [B, H, N+1], attention received so far."""
    entropy_sum: Tensor
    distance_sum: Tensor
    destination_weight: Tensor
    destination_index: Tensor
    matrix_rows: list[Tensor] | None

    @classmethod
    def empty(cls, query: Tensor, patch_ids: Tensor, grid_cols: int, matrices: bool, proxy: bool) -> _Streams:
        batch, heads, tokens = query.shape[:3]
        cls_ids = patch_ids.new_full((batch, 1), CLS_ID)
        start: Any = {"dtype": torch.float32, "device": query.device}  # the default dtype may be another
        per_token = torch.zeros(batch, tokens, **start)
        per_head = torch.zeros(batch, heads, **start)
        return cls(
            proxy=proxy,
            token_ids=torch.cat([cls_ids, patch_ids], dim=1),
            places=torch.stack([patch_ids // grid_cols, patch_ids % grid_cols], dim=-1).float(),
            cls_column=[],
            source_weights=[],
            source_ids=[],
            received=torch.zeros(batch, heads, tokens, **start),
            entropy_sum=per_head,
            distance_sum=per_head.clone(),
            destination_weight=per_token - 1.0,  # below any attention weight
            destination_index=torch.zeros_like(per_token, dtype=torch.long),
            matrix_rows=[] if matrices else None,
        )

    def add(self, start: int, weights: Tensor) -> None:
        """Take in the attention of queries `start`, `start + 1`, ..."""
        head_mean = weights.mean(dim=1)  # [B, block, N+1]
        own = slice(max(self._left_out - start, 0), None)  # the model's own queries
        self.cls_column.append(weights[..., 0])
        self.received += weights[:, :, own].sum(dim=2)
        self.entropy_sum += torch.special.entr(weights[:, :, own]).sum(dim=(-1, -2))
        self._add_distances(start, weights)
        self._add_sources(head_mean)
        if head_mean[:, own].shape[1]:
            self._add_destinations(start + (own.start or 0), head_mean[:, own])
        if self.matrix_rows is not None:
            self.matrix_rows.append(head_mean.half())

    @property
    def _left_out(self) -> int:
        """Queries at the start that are not the model's own."""
        return 1 if self.proxy else 0

    def _add_distances(self, start: int, weights: Tensor) -> None:
        """Per patch query, the mean distance to the patches it attends to, weighed by attention without CLS."""
        patch_rows = weights[:, :, max(1 - start, 0) :, 1:]
        first = max(start, 1) - 1
        here = self.places[:, first : first + patch_rows.shape[2]]
        distances = torch.cdist(here, self.places, compute_mode="donot_use_mm_for_euclid_dist")
        reached = (patch_rows * distances[:, None]).sum(dim=-1)
        mass = patch_rows.sum(dim=-1).clamp_min(torch.finfo(torch.float32).tiny)
        self.distance_sum += (reached / mass).sum(dim=-1)

    def _add_sources(self, head_mean: Tensor) -> None:
        found = head_mean.topk(min(STRONGEST, head_mean.shape[-1]), dim=-1)
        ids = self.token_ids[:, None].expand(-1, head_mean.shape[1], -1).gather(2, found.indices)
        ids = ids.masked_fill(found.values == 0, PADDING_ID)  # what a query does not see is no source of it
        missing = STRONGEST - ids.shape[-1]
        self.source_weights.append(nn.functional.pad(found.values, (0, missing)))
        self.source_ids.append(nn.functional.pad(ids, (0, missing), value=PADDING_ID))

    def _add_destinations(self, start: int, head_mean: Tensor) -> None:
        strongest = head_mean.max(dim=1)
        stronger = strongest.values > self.destination_weight
        self.destination_weight = torch.where(stronger, strongest.values, self.destination_weight)
        self.destination_index = torch.where(stronger, strongest.indices + start, self.destination_index)

    def finish(self) -> AttentionStatistics:
        tokens = self.token_ids.shape[1]
        alone = self.destination_weight <= 0
        destination = self.token_ids.gather(1, self.destination_index).masked_fill(alone, PADDING_ID)
        return AttentionStatistics(
            cls_column=torch.cat(self.cls_column, dim=-1),
            received_mass=self.received.mean(dim=1),
            received_by_head=self.received.half(),
            row_entropy=self.entropy_sum / (tokens - self._left_out),
            attention_distance=self.distance_sum / (tokens - 1),
            top_source_ids=torch.cat(self.source_ids, dim=1),
            top_source_weights=torch.cat(self.source_weights, dim=1),
            top_destination_id=destination,
            top_destination_weight=self.destination_weight.clamp_min(0),
            head_mean=None if self.matrix_rows is None else torch.cat(self.matrix_rows, dim=1),
        )
