"""What is left of a batch of prompts after visual tokens were pruned: rows, positions, masks. Pure tensor functions."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class KeptRows:
    """What is left of a batch of prompts after the cut; kept beside the cache that was filled with it."""

    rows: Tensor
    """int64 [B, L'], rows of the uncut sequence, in the order of what is left; 0 where a shorter prompt is filled up,
    at the start."""
    live: Tensor
    """bool [B, L'], False where it is filled up."""
    shift: Tensor
    """int64 [B, L'], by how much the position of each row moves towards the start, or 0."""
    removed: Tensor
    """int64 [B], visual tokens removed from each prompt."""
    moved: Tensor
    """int64 [B], by how much positions behind the prompt move: `removed`, or 0 where tokens keep their positions."""
    prompt_length: int
    """L."""

    @property
    def filled_up(self) -> bool:
        return not bool(self.live.all())

    def for_batch(self, batch: int) -> KeptRows:
        """The same for a batch whose prompts were repeated, as beams are: [B * k, ...]."""
        times = batch // len(self.rows)
        if times == 1:
            return self
        rows, live, shift, removed, moved = (
            part.repeat_interleave(times, dim=0)
            for part in (self.rows, self.live, self.shift, self.removed, self.moved)
        )
        return KeptRows(rows, live, shift, removed, moved, self.prompt_length)

    def columns(self, prompt: int, rows: Tensor) -> Tensor:
        """int64, where these live rows of one prompt lie in the sequence that is left."""
        own = self.rows[prompt][self.live[prompt]]
        ascending, order = own.sort()
        return order[torch.searchsorted(ascending, rows.to(own.device))] + len(self.live[prompt]) - len(own)

    def places(self, earlier: KeptRows | None) -> Tensor:
        """int64 [B, L'], where each row lies in the sequence that an earlier cut left; 0 where it is filled up."""
        if earlier is None:
            return self.rows
        found = torch.zeros_like(self.rows)
        for prompt, live in enumerate(self.live):
            found[prompt, live] = earlier.columns(prompt, self.rows[prompt, live])
        return found

    def renumbered(self, positions: Tensor) -> Tensor:
        """int64 [B, L'], the positions of what is left, from the prompt's, [B, L]."""
        return positions.gather(1, self.rows) - self.shift.masked_fill(~self.live, 0)

    def of_rows(self, parts: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """[B, L', d] each, what of two tensors, [B or 1, L, d], belongs to the rows that are left."""
        rows = self.rows[..., None]
        first, second = (
            part.expand(len(rows), -1, -1).gather(1, rows.expand(-1, -1, part.shape[-1])) for part in parts
        )
        return first, second

    def mask(self, mask: Tensor | None, keys: int) -> Tensor | None:
        """[B, keys after the cut], the padding mask [B, keys] as the layers after the cut need it."""
        if mask is None and not self.filled_up:
            return None
        whole = self.live.new_ones(len(self.rows), keys) if mask is None else mask.bool()
        prompt = whole[:, : self.prompt_length].gather(1, self.rows) & self.live
        return torch.cat([prompt, whole[:, self.prompt_length :]], dim=1)


def kept_rows_of(
    spans: list[tuple[int, int, int]],
    kept: list[Tensor],
    live: Tensor,
    device: torch.device,
    renumber: bool = True,
    merged: list[Tensor] | None = None,
) -> KeptRows:
    """What of [B, L] rows goes on: all that are live but the visual tokens that were not kept; padding goes too.

    Args:
        spans: (prompt, start, length) of each picture's visual tokens.
        kept: int64, per span, the visual ids that are kept.
        live: bool [B, L], False where a prompt is padded.
        renumber: whether positions move up to close the gaps.
        merged: int64, per span, the visual ids whose rows are taken by tokens that come behind the kept ones; None:
            there are none.
    """
    pruned = torch.zeros_like(live)
    order = torch.arange(live.shape[1], dtype=torch.float64).repeat(len(live), 1)
    for number, ((prompt, start, length), ids) in enumerate(zip(spans, kept, strict=True)):
        behind = ids[:0] if merged is None else merged[number]
        pruned[prompt, start : start + length] = True
        pruned[prompt, start + torch.cat([ids, behind])] = False
        order[prompt, start + behind] = start + length - 1 + torch.linspace(0, 1, len(behind) + 2).double()[1:-1]
    rows = [row.nonzero()[:, 0] for row in live & ~pruned]
    rows = [row[own[row].argsort()] for row, own in zip(rows, order, strict=True)]
    longest = max(len(row) for row in rows)
    filled = torch.stack([nn.functional.pad(row, (longest - len(row), 0)) for row in rows])
    is_row = torch.arange(longest) >= torch.tensor([[longest - len(row)] for row in rows])
    place_then, place_now = live.cumsum(dim=1).gather(1, filled) - 1, is_row.cumsum(dim=1) - 1
    shift, removed = (place_then - place_now).to(device), pruned.sum(dim=1).to(device)
    moved = removed if renumber else torch.zeros_like(removed)
    shift = shift if renumber else torch.zeros_like(shift)
    return KeptRows(filled.to(device), is_row.to(device), shift, removed, moved, prompt_length=live.shape[1])
