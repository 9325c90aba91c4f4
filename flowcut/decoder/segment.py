"""The state of a forward pass between two cuts: what the layers read, and each picture's visual tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flowcut.criteria.evidence import by_removal
from flowcut.criteria.flowcut import Criteria
from flowcut.decoder.kept_rows import KeptRows
from flowcut.decoder.locate import LanguageDecoder


@dataclass
class Segment:
    """What the layers after one cut read, up to the next one."""

    after: int
    """The layer after which it was cut."""
    kept_rows: KeptRows
    positions: Tensor | None = None
    """int64 [B, q], after the cut."""
    rotary: dict[bool, tuple[Tensor, Tensor]] = field(default_factory=dict)
    """By the same as the masks."""
    blocks: Tensor | None = None
    """Of a prefill int64 [B, L'], tokens of one number see each other both ways, -1: causal; None: all are causal."""
    masks: dict[bool, Any] = field(default_factory=dict)
    """By whether the layer's attention reaches back a window only."""

    def mask(self, decoder: LanguageDecoder, layer: int, hidden: Tensor, padding: Tensor | None, cache: Any) -> Any:
        """The mask of one of its layers; made once for all layers that reach back alike.

        Args:
            decoder: the decoder that the layer belongs to.
            layer: its place in the decoder.
            hidden: [B, q, width], its input.
            padding: [B, keys], the padding mask of the decoder input.
            cache: the decoder's, if it has one.
        """
        slides = decoder.slides(layer)
        if slides not in self.masks:
            cached = 0 if cache is None else cache.get_seq_length(layer)
            grown = cached + hidden.shape[1] - self.kept_rows.rows.shape[1]  # tokens since the prompt
            live = self.kept_rows.mask(padding, self.kept_rows.prompt_length + grown)
            self.masks[slides] = decoder.mask(layer, hidden, live, cache, self.blocks)
        return self.masks[slides]

    def turned(
        self, decoder: LanguageDecoder, layer: int, hidden: Tensor, given: Mapping[str, Any], keeps_positions: bool
    ) -> tuple[Tensor, Tensor]:
        """Cosine and sine for what one of its layers reads; made once for all layers that reach back alike.

        Args:
            decoder: the decoder that the layer belongs to.
            layer: its place in the decoder.
            hidden: [B, q, width], its input.
            given: its keyword arguments, as for an uncut prompt.
            keeps_positions: whether tokens keep the positions of the uncut prompt: then what is given is right, and of
                a prefill (where `positions` are known before) it is that of the rows kept.
        """
        slides = decoder.slides(layer)
        if slides not in self.rotary:
            stock = given["position_embeddings"]
            if keeps_positions:
                self.rotary[slides] = stock if self.positions is None else self.kept_rows.of_rows(stock)
                return self.rotary[slides]
            if self.positions is None:  # decoding: whatever position comes, less what was pruned before it
                self.positions = given["position_ids"] - self.kept_rows.moved[:, None]
            self.rotary[slides] = decoder.rotary(hidden, self.positions, layer)
        return self.rotary[slides]


@dataclass
class Span:
    """One picture's visual tokens in one prompt of a prefill."""

    prompt: int
    start: int
    length: int
    """N."""
    kept: np.ndarray
    """int64 [n], visual ids still kept."""
    pruned_at: np.ndarray
    """int64 [N], the layer after which each was pruned; -1: it is kept."""
    rank: np.ndarray
    """float64 [N], what each was ranked by last."""
    criteria: Criteria | None = None
    """FlowCut's scores."""
    evidence: dict[str, np.ndarray] = field(default_factory=dict)
    """What another method needs of the layer at hand, by the names of DecoderEvidence's fields."""
    raters: Tensor | None = None
    """int64, rows of the text tokens that rate (SparseVLM)."""
    merged: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    """int64 [m], of the tokens merged from pruned ones, which come behind the kept: the visual id at the centre of each
    one's cluster, whose row they take."""
    fresh: Tensor | None = None
    """[m', width], those that were merged at the last step, the last of `merged`."""
    noise: torch.Generator | None = None
    """Of a span whose pruned tokens are merged."""
    read: list[int] = field(default_factory=list)
    """Tokens that are left after each step so far."""

    @classmethod
    def whole(cls, prompt: int, start: int, length: int) -> Span:
        """With all its visual tokens kept."""
        return cls(prompt, start, length, np.arange(length), np.full(length, -1), np.full(length, np.nan))

    @property
    def place(self) -> tuple[int, int, int]:
        """Prompt, start and length."""
        return self.prompt, self.start, self.length

    @property
    def alive(self) -> np.ndarray:
        """int64 [n + m], visual ids of the tokens that layers read now: the kept, then the merged."""
        return np.concatenate([self.kept, self.merged])

    def rows(self) -> Tensor:
        """int64 [n + m], rows of the uncut sequence of the visual tokens that layers read now."""
        return torch.from_numpy(self.start + self.alive)

    def keep(self, places: np.ndarray, ranking: np.ndarray, layer: int) -> np.ndarray:
        """Go on with some of the tokens alive.

        Args:
            places: int64, ascending, where they lie among those alive.
            ranking: float64 [n + m], what those alive were ranked by.
            layer: after which it is.

        Returns:
            int64, where those that go lie among those alive.
        """
        count = len(self.kept)
        self.rank[self.kept] = ranking[:count]
        stay, stay_merged = places[places < count], places[places >= count] - count
        self.pruned_at[np.delete(self.kept, stay)] = layer
        self.kept, self.merged, self.fresh = self.kept[stay], self.merged[stay_merged], None
        return np.delete(np.arange(len(ranking)), places)

    def ranking(self) -> np.ndarray:
        """float64 [N], as LanguageRecord.ranking says."""
        when = np.where(self.pruned_at < 0, np.iinfo(np.int64).max, self.pruned_at)
        return self.rank if len(np.unique(when)) <= 2 else by_removal(when, self.rank)
