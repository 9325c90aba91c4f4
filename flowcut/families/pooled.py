"""Tokens pooled from several patches, some of them pruned: which are kept, which best, what each is made of.

A layout is float32 [n, 5], one line of numbers for each token, made by the very code that lays out and pools features:
run on numbers that say which patch is where, it tells what each token is made of.
"""

from __future__ import annotations

import torch
from torch import Tensor

from flowcut._moved import names_from
from flowcut.encoder.recording import Recording

KEPT, SCORE, ROW, COLUMN, BASE = range(5)
"""The numbers laid out beside the features: kept (1 or 0), score, place on the grid of all crops, of the base tile."""
NEWLINE = -1.0
NEGLIGIBLE = 1e-4
"""A patch with no more than this weight in a pooled token is no part of it."""


def kept_rows(recording: Recording, n_patches: int) -> tuple[Tensor, Tensor | None]:
    """float32 [tiles, patches]: 1 where kept, and the tower's last score; None where the method has none."""
    kept, score = (torch.zeros(len(recording.kept), n_patches, dtype=torch.float32) for _ in range(2))
    for row, (ids, own) in enumerate(zip(recording.kept, recording.scores, strict=True)):
        kept[row, ids.cpu()] = 1.0
        if own is not None:
            score[row, ids.cpu()] = own.cpu()
    # A tile that was left uncut needs no score.
    pairs = zip(recording.scores, recording.was_cut, strict=True)
    return kept, score if all(own is not None or not was_cut for own, was_cut in pairs) else None


def best_tokens(layout: Tensor, tokens: int, scored: bool) -> Tensor:
    """bool [n]: a picture's best kept tokens, or evenly strided ones; a newline is kept after a single tile only."""
    newline = layout[:, KEPT] == NEWLINE
    places = (layout[:, KEPT] > NEGLIGIBLE).nonzero()[:, 0]
    if scored:
        value = layout[places, SCORE] / layout[places, KEPT]
        places = places[value.argsort(descending=True, stable=True)[:tokens]]
    elif len(places) > tokens:
        places = places[torch.arange(tokens) * len(places) // tokens]
    single = bool((layout[~newline, BASE] == 1).all())
    chosen = newline.clone() if single else torch.zeros_like(newline)
    chosen[places] = True
    return chosen


def mean_of_kept(features: Tensor, layout: Tensor) -> Tensor:
    """Pooled tokens as the mean of their kept patches: pruned ones had been put in as zeros."""
    kept = layout[:, KEPT].to(features.device)
    mixed = (kept > NEGLIGIBLE) & (kept < 1 - NEGLIGIBLE)
    return torch.where(mixed[:, None], features / kept.clamp_min(NEGLIGIBLE)[:, None].to(features.dtype), features)


def source_patches_of(layout: Tensor, kept: Tensor, first_row: int, side: int, across: int) -> tuple[Tensor, Tensor]:
    """int64 [n, 4, 2] and float32 [n, 4]: where a token was sampled says which patches it mixes, and by how much."""
    row, column = layout[:, ROW], layout[:, COLUMN]
    patches, weights = [], []
    for down, right in ((0, 0), (0, 1), (1, 0), (1, 1)):
        y, x = row.floor() + down, column.floor() + right
        weight = (1 - (row - y).abs()).clamp_min(0) * (1 - (column - x).abs()).clamp_min(0)
        y, x = y.long(), x.long()
        base = layout[:, BASE] == 1
        tile = torch.where(base, first_row, first_row + 1 + y // side * across + x // side)
        patch = y % side * side + x % side
        real = (layout[:, KEPT] != NEWLINE) & (weight > NEGLIGIBLE)
        seen = kept[tile.clamp(0, len(kept) - 1), patch] > 0
        weights.append(torch.where(real & seen, weight, 0.0))
        patches.append(torch.stack([tile, patch], dim=-1).masked_fill(~(real & seen)[:, None], -1))
    share, order = torch.stack(weights, dim=1).sort(dim=1, descending=True, stable=True)
    largest_first = torch.stack(patches, dim=1).gather(1, order[..., None].expand(-1, -1, 2))
    return largest_first, (share / share.sum(dim=1, keepdim=True).clamp_min(NEGLIGIBLE))


MOVED = {
    "mean_of_the_living": "mean_of_kept",
    "survivors": "kept_rows",
    "parts_of_tokens": "source_patches_of",
    "ALIVE": "KEPT",
}
__getattr__ = names_from(__name__, __name__, only=MOVED, renamed=MOVED)
