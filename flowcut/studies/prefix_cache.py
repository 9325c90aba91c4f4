"""A prompt read in parts: what does not change is read once, choices of patches in batches, questions after them.

A decoder is causal: the keys and values of a token depend on those before it only. So what stands before the first
patch that a choice leaves out is shared with the whole picture, and what comes after the picture is read on top of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from flowcut.criteria.positions import KEPT, Positions
from flowcut.models.loading import free_memory

SHARE_OF_MEMORY = 0.25
"""Of the free memory, for one batch."""
ASSUMED_FREE = 2_000_000_000
"""Bytes, where the device does not say."""
ROWS_AT_ONCE = {"cpu": 4096}
"""Tokens in one pass: more fill no caches of a CPU and would only hold the model's lock for longer."""
MOST_ROWS_AT_ONCE = 65536


class PromptStart:
    """A prompt up to and with its last visual token, V tokens, ready to be read with any of its patches left out."""

    def __init__(
        self,
        hf_model: PreTrainedModel,
        embeds: Tensor,
        patch_of_row: Tensor,
        grid_cols: int,
        ranking: np.ndarray | None = None,
        places: Tensor | None = None,
        ends_at: int | None = None,
    ) -> None:
        """`embeds` is [V, width]; `patch_of_row` int64 [V] on the CPU: the patch that each token is, -1: none.

        `grid_cols` are the patches in a row of the grid; `ranking` is that of the cut that made it, if one did.
        `places` are the tokens' positions in the full prompt, int64 [V] on the CPU, and `ends_at` that of what comes
        after the picture there; None: nothing is missing, they are 0 to V - 1, and V.
        """
        self.model: Any = hf_model
        self.grid_cols = grid_cols
        self.ranking = ranking
        self.embeds = embeds
        self.patch_of_row = patch_of_row
        self.places = torch.arange(len(embeds)) if places is None else places
        self.ends_at = len(embeds) if ends_at is None else ends_at
        self._whole: list[tuple[Any, Any]] | None = None
        """Keys and values of every decoder layer after the whole picture, [1, heads, V, head width]."""

    def patch_features(self) -> Tensor:
        """[N, width], the tokens that are patches, as the language model is given them."""
        return self.embeds[(self.patch_of_row >= 0).to(self.embeds.device)]

    def rows(self, kept: Tensor) -> Tensor:
        """int64 [m] ascending, the tokens that stay: these patches, and all that is no patch."""
        return ((self.patch_of_row < 0) | torch.isin(self.patch_of_row, kept)).nonzero()[:, 0]

    def batches(self, rows: Sequence[Tensor], more_tokens: int) -> list[list[int]]:
        """Which of these choices to read at once: of equal length, with as much in common at the start as possible.

        `more_tokens` is the most that will be read after them.
        """
        shared = [_same_start(one) for one in rows]
        order = sorted(range(len(rows)), key=lambda index: (len(rows[index]), -shared[index]))
        most_rows = ROWS_AT_ONCE.get(self.embeds.device.type, MOST_ROWS_AT_ONCE)
        free = free_memory(self.embeds.device) or ASSUMED_FREE
        batches: list[list[int]] = []
        for index in order:
            length, new = len(rows[index]), len(rows[index]) - shared[index] + more_tokens
            size = len(batches[-1]) + 1 if batches and len(rows[batches[-1][0]]) == length else 1
            fits = size * new <= most_rows and size * self._bytes(length + more_tokens, new) <= SHARE_OF_MEMORY * free
            if size > 1 and fits:
                batches[-1].append(index)
            else:
                batches.append([index])
        return batches

    def read(self, rows: Tensor, positions: Positions) -> DynamicCache:
        """The decoder's keys and values after these choices, int64 [B, m]."""
        shared = min(_same_start(one) for one in rows)
        cache = self._begin(shared, len(rows))
        if shared < rows.shape[1]:
            new = self.embeds[rows[:, shared:].to(self.embeds.device)]
            places = self.places[rows] if positions == KEPT else torch.arange(rows.shape[1]).expand_as(rows)
            _read(self.model, cache, new, places[:, shared:], keep=1)
        return cache

    def begin_after(self, rows: Tensor, positions: Positions) -> int:
        """The position of the first token after these choices, int64 [B, m]."""
        return self.ends_at if positions == KEPT else rows.shape[1]

    def _begin(self, shared: int, batch: int) -> DynamicCache:
        """A cache that holds the first tokens of the whole prompt for each of a batch."""
        if shared == 0:
            return DynamicCache()
        if self._whole is None:
            cache = DynamicCache()
            _read(self.model, cache, self.embeds[None], self.places[None], keep=1)
            self._whole = [(keys, values) for keys, values, *_ in cache]
        return DynamicCache(
            [tuple(part[:, :, :shared].expand(batch, -1, -1, -1) for part in pair) for pair in self._whole]
        )

    def _bytes(self, length: int, new: int) -> int:
        """What one choice of a batch takes at most: its cache twice while it grows, activations, and the mask."""
        config = self.model.config.text_config
        heads = getattr(config, "num_key_value_heads", config.num_attention_heads)
        head_width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        cached = 2 * config.num_hidden_layers * heads * head_width
        active = 8 * config.hidden_size + 3 * config.intermediate_size
        size = self.embeds.element_size()
        return int(size * (2 * length * cached + new * active) + 4 * (new * length + new * config.vocab_size))


def read_on(hf_model: PreTrainedModel, cache: DynamicCache, embeds: Tensor, keep: int, begin: int) -> Tensor:
    """Logits [B, keep, vocabulary] of the last of `embeds` [B, t, width] after a cache, which is left as it was.

    The first of them has the position `begin`.
    """
    positions = torch.arange(begin, begin + embeds.shape[1])[None]
    logits = _read(hf_model, cache, embeds, positions, keep)
    cache.crop(-embeds.shape[1])
    return logits


def _read(model: Any, cache: DynamicCache, embeds: Tensor, positions: Tensor, keep: int) -> Tensor:
    """Logits [B, keep, vocabulary] of the last of `embeds` [B, t, width] at positions [B, t], or [1, t] for all."""
    read = {"inputs_embeds": embeds, "position_ids": positions.to(embeds.device), "past_key_values": cache}
    logits: Tensor = model(**read, use_cache=True, logits_to_keep=keep).logits
    return logits


def _same_start(rows: Tensor) -> int:
    """How many tokens of the whole prompt a choice begins with."""
    return int((rows == torch.arange(len(rows))).long().cumprod(dim=0).sum())
