"""One forward pass of a decoder on its way: which visual tokens are still there, and what its layers read."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flowcut.criteria.evidence import by_removal
from flowcut.criteria.flowcut import Criteria
from flowcut.decoder.kept_rows import KeptRows
from flowcut.decoder.spans import Aim


@dataclass
class Segment:
    """What the layers after one cut read, up to the next one."""

    after: int
    """The layer after which it was cut."""
    kept_rows: KeptRows
    positions: Tensor | None = None
    """int64 [B, q], after the cut."""
    rotary: tuple[Tensor, Tensor] | None = None
    masks: dict[bool, Any] = field(default_factory=dict)
    """By whether the layer's attention reaches back a window only."""


@dataclass
class Span:
    """One picture's visual tokens in one prompt of a prefill."""

    prompt: int
    start: int
    length: int
    """N."""
    kept: np.ndarray
    """int64 [n], visual ids that are still there."""
    pruned_at: np.ndarray
    """int64 [N], the layer after which each went; -1: it is still there."""
    rank: np.ndarray
    """float64 [N], what each was ranked by when it was last looked at."""
    criteria: Criteria | None = None
    """FlowCut's scores."""
    evidence: dict[str, np.ndarray] = field(default_factory=dict)
    """What another method looks at in the layer at hand, by the names of DecoderEvidence's fields."""
    raters: Tensor | None = None
    """int64, rows of the text tokens that rate (SparseVLM)."""

    @classmethod
    def whole(cls, prompt: int, start: int, length: int) -> Span:
        """With all its visual tokens there."""
        return cls(prompt, start, length, np.arange(length), np.full(length, -1), np.full(length, np.nan))

    @property
    def place(self) -> tuple[int, int, int]:
        """Prompt, start and length."""
        return self.prompt, self.start, self.length

    def rows(self) -> Tensor:
        """int64 [n], rows of the uncut sequence of the visual tokens that are still there."""
        return torch.from_numpy(self.start + self.kept)

    def ranking(self) -> np.ndarray:
        """float64 [N], as LanguageRecord.ranking says."""
        when = np.where(self.pruned_at < 0, np.iinfo(np.int64).max, self.pruned_at)
        return self.rank if len(np.unique(when)) <= 2 else by_removal(when, self.rank)


@dataclass
class DecoderPass:
    """One forward pass of the decoder."""

    mask: Tensor | None
    """[B, keys], the padding mask of the decoder input."""
    prefill: bool
    segments: list[Segment] = field(default_factory=list)
    """Known from the input on while decoding; in a prefill each one from its layer on."""
    spans: list[Span] = field(default_factory=list)
    """Of a prefill."""
    last: list[int] = field(default_factory=list)
    """Per prompt, the last instruction token's row."""
    live: Tensor | None = None
    """bool [B, L] on the CPU, where a prefill's prompts are not padded."""
    origin: Tensor | None = None
    """int64 [B, L], positions of a prefill before any cut."""
    aim: Aim | None = None
    """Of a prefill."""
    ahead: bool = False
    """Whether a layer's attention is being run ahead of it."""

    def segment_at(self, layer: int) -> Segment | None:
        """What a layer reads; None: everything."""
        return next((segment for segment in reversed(self.segments) if segment.after < layer), None)

    def columns(self, prompt: int, rows: Tensor) -> Tensor:
        """int64, where rows of a prompt that are still there lie in the sequence as it is now."""
        return self.segments[-1].kept_rows.columns(prompt, rows) if self.segments else rows

    def text_after(self, span: Span) -> Tensor:
        """int64 [m], rows of the text tokens between a picture and the prompt's end, the last one among them."""
        assert self.live is not None
        is_text = torch.zeros_like(self.live[span.prompt])
        is_text[span.start + span.length : self.last[span.prompt] + 1] = True
        for other in self.spans:
            if other.prompt == span.prompt:
                is_text[other.start : other.start + other.length] = False
        return is_text.nonzero()[:, 0]
