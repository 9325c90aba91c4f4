"""What is left of a batch of prompts after visual tokens were pruned: rows, positions, masks. Pure tensor functions."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class KeptRows:
    """What is left of a batch of prompts after the cut; kept beside the cache that was filled with it."""

    rows: Tensor
    """int64 [B, L'], rows of the uncut sequence; 0 where a shorter prompt is filled up, at the start."""
    live: Tensor
    """bool [B, L'], False where it is filled up."""
    shift: Tensor
    """int64 [B, L'], by how much the position of each row moves: the visual tokens removed before it, or 0."""
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
        """int64, where these live rows of one prompt, ascending, lie in the sequence that is left."""
        own = self.rows[prompt][self.live[prompt]]
        return torch.searchsorted(own, rows.to(own.device)) + len(self.live[prompt]) - len(own)

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
    spans: list[tuple[int, int, int]], kept: list[Tensor], live: Tensor, device: torch.device, renumber: bool = True
) -> KeptRows:
    """What of [B, L] rows goes on: all that are live but the visual tokens that were not kept; padding goes too.

    Args:
        spans: (prompt, start, length) of each picture's visual tokens.
        kept: int64, per span, the visual ids that are kept.
        live: bool [B, L], False where a prompt is padded.
        renumber: whether positions move up to close the gaps.
    """
    pruned = torch.zeros_like(live)
    for (prompt, start, length), ids in zip(spans, kept, strict=True):
        pruned[prompt, start : start + length] = True
        pruned[prompt, start + ids] = False
    rows = [row.nonzero()[:, 0] for row in live & ~pruned]
    longest = max(len(row) for row in rows)
    filled = torch.stack([nn.functional.pad(row, (longest - len(row), 0)) for row in rows])
    is_row = torch.arange(longest) >= torch.tensor([[longest - len(row)] for row in rows])
    before = pruned.cumsum(dim=1)
    shift, removed = before.gather(1, filled).to(device), before[:, -1].to(device)
    moved = removed if renumber else torch.zeros_like(removed)
    shift = shift if renumber else torch.zeros_like(shift)
    return KeptRows(filled.to(device), is_row.to(device), shift, removed, moved, prompt_length=live.shape[1])
