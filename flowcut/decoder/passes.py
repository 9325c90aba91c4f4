"""One forward pass of a decoder on its way: which visual tokens are kept, and what its layers read."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from flowcut.decoder.deepstack import Deepstack
from flowcut.decoder.kept_rows import KeptRows
from flowcut.decoder.recycling import noise_source, recycle
from flowcut.decoder.segment import Segment, Span
from flowcut.decoder.spans import Aim, check_spans
from flowcut.decoder.two_way import is_ready_made, makes_own_masks, padding_of
from flowcut.errors import FlowCutError


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
    """int64 [B, L], positions of a prefill before any cut; where these are places in a picture, counted in tokens."""
    deepstack: Deepstack | None = None
    """Of a prefill: what is added to its visual tokens behind the first layers."""
    aim: Aim | None = None
    """Of a prefill."""
    blocks: Tensor | None = None
    """int64 [B, L], of a prefill of which some tokens see each other both ways; None: all are causal."""
    ahead: bool = False
    """Whether a lookahead runs: the attention of a layer before that layer itself."""

    @classmethod
    def of_prompts(cls, aim: Aim, batch: int, length: int, mask: Tensor | None) -> DecoderPass:
        """A prefill about to begin.

        Raises:
            FlowCutError: the spans do not fit the prompts that came.
        """
        spans = aim.spans_of(batch)
        live = torch.ones(batch, length, dtype=torch.bool) if mask is None else mask.bool().cpu()
        ends = aim.ends(batch, live)
        for prompt, (own, kept, end) in enumerate(zip(spans, live.numpy(), ends, strict=True)):
            check_spans(own, prompt, kept, end)
        flat = [Span.whole(prompt, start, span) for prompt, own in enumerate(spans) for start, span in own]
        last = [end - 1 for end in ends]
        return cls(mask, prefill=True, spans=flat, last=last, live=live, aim=aim, blocks=aim.blocks_of(batch, length))

    def note_positions(self, given: Tensor | None, device: torch.device) -> None:
        """What a layer of a prefill was given as positions, [B or 1, L]; None: it was given none but the angles."""
        assert self.live is not None
        if self.origin is None:
            counted = (self.live.long().cumsum(dim=1) - 1).clamp_min(0).to(device)
            self.origin = counted if given is None else given.expand(len(self.live), -1)

    def segment_at(self, layer: int) -> Segment | None:
        """What a layer reads; None: everything."""
        return next((segment for segment in reversed(self.segments) if segment.after < layer), None)

    def blocks_now(self) -> Tensor | None:
        """int64 [B, L'], the blocks of the sequence as it is now."""
        return self.segments[-1].blocks if self.segments else self.blocks

    def columns(self, prompt: int, rows: Tensor) -> Tensor:
        """int64, where rows of a prompt that are still kept lie in the sequence as it is now."""
        return self.segments[-1].kept_rows.columns(prompt, rows) if self.segments else rows

    def places_of(self, span: Span) -> dict[str, np.ndarray]:
        """Places in the uncut prompt, padding not counted, of a picture's tokens still kept and of the text after."""
        assert self.live is not None
        padded = int(self.live[span.prompt].int().argmax())
        return {
            "visual_rows": span.rows().numpy() - padded,
            "text_rows": self.text_after(span).numpy() - padded,
        }

    def check_text(self) -> None:
        """
        Raises:
            FlowCutError: no text comes after a picture, and what it attends to is asked for.
        """
        if not all(len(self.text_after(span)) for span in self.spans):
            raise FlowCutError("There is no text after the visual tokens, and the method asks what it attends to.")

    def text_after(self, span: Span) -> Tensor:
        """int64 [m], rows of the text tokens between a picture and the prompt's end, the last one among them."""
        assert self.live is not None
        is_text = torch.zeros_like(self.live[span.prompt])
        is_text[span.start + span.length : self.last[span.prompt] + 1] = True
        for other in self.spans:
            if other.prompt == span.prompt:
                is_text[other.start : other.start + other.length] = False
        return is_text.nonzero()[:, 0]


def merge_pruned(current: DecoderPass, span: Span, hidden: Tensor, rows: Tensor, scores: np.ndarray) -> None:
    """Merge some of a span's tokens that were just pruned into new ones, which it then has behind those it kept.

    Args:
        current: the prefill.
        span: what is left of it.
        hidden: [B, L', width], the sequence before this step.
        rows: int64 [p], rows of the uncut sequence of what was pruned; `scores` float64 [p] what that was ranked by.
    """
    span.noise = span.noise or noise_source()
    columns = current.columns(span.prompt, rows).to(hidden.device)
    span.fresh, centres = recycle(hidden[span.prompt, columns].detach(), torch.from_numpy(scores), span.noise)
    span.merged = np.concatenate([span.merged, rows.numpy()[centres.cpu().numpy()] - span.start])


def put_merged(current: DecoderPass, kept_rows: KeptRows, hidden: Tensor) -> Tensor:
    """[B, L', width], what is left of a sequence, with the tokens that were merged at this step in their places."""
    for span in current.spans:
        if span.fresh is not None:
            rows = torch.from_numpy(span.start + span.merged[-len(span.fresh) :])
            hidden[span.prompt, kept_rows.columns(span.prompt, rows)] = span.fresh
            span.fresh = None
    return hidden


def check_cache(cache: Any) -> None:
    """
    Raises:
        FlowCutError: its layers are of one length that is set before, as a cut makes them unequal.
    """
    if getattr(cache, "is_compileable", False):
        raise FlowCutError(
            "A cut inside the language model makes layers read sequences of unequal length, and a static cache has one "
            "length for all: leave the cache at its default (cache_implementation and cache_config out)."
        )


def padding_mask(mask: Any, decoder: nn.Module, length: int | None = None) -> Tensor | None:
    """The mask as it was given to the decoder, which must be one of padding, [B, keys], or none.

    Where the model around the decoder makes its masks itself, what they say of padding.

    Args:
        mask: as it was given.
        decoder: without its head.
        length: of the prompts in a prefill; None: it goes on with a cache.

    Raises:
        FlowCutError: it is of another shape.
    """
    if is_ready_made(mask) and makes_own_masks(decoder):
        return padding_of(mask, length)
    if mask is not None and (not isinstance(mask, Tensor) or mask.ndim != 2):
        raise FlowCutError(
            "The language model was given a ready-made attention mask: give the padding mask [batch, length], and "
            "leave the cache at its default (a static cache comes with ready-made masks)."
        )
    return mask
