"""Prompts of which some tokens see each other in both directions: Gemma 3's pictures, PaliGemma's whole prompt.

Such tokens are numbered by *blocks*, int64 [B, L]: tokens of one number see each other, and -1 is causal. The models
make their masks before the decoder is called, from the full prompt; behind a cut they are made anew, by the same code.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.masking_utils import create_causal_mask, create_sliding_window_causal_mask

from flowcut.errors import FlowCutError

CAUSAL = -1
"""The block of a token that sees none that comes later."""


def two_way_mask(decoder: PreTrainedModel, slides: bool, hidden: Tensor, live: Tensor | None, blocks: Tensor) -> Any:
    """The mask of a prefill as the model's own code makes it.

    Args:
        decoder: without its head.
        slides: whether the layer's attention reaches back a window only.
        hidden: [B, L, width], the layer's input.
        live: [B, L], 0 where a key is padding; None: nothing is.
        blocks: int64 [B, L].
    """
    given = {
        "config": decoder.config, "inputs_embeds": hidden, "attention_mask": live, "past_key_values": None,
        "position_ids": None, "block_sequence_ids": blocks,
    }  # fmt: skip
    own = getattr(sys.modules[type(decoder).__module__], "create_masks_for_vision_model", None)
    if own is not None:  # Gemma 3's windows end within a picture, too
        return own(**given)["sliding_attention" if slides else "full_attention"]
    return (create_sliding_window_causal_mask if slides else create_causal_mask)(**given)


def blocks_left(blocks: Tensor | None, rows: Tensor) -> Tensor | None:
    """int64 [B, L'], the blocks of the rows that are left of a prompt, from those of all, [B, L]."""
    return None if blocks is None else blocks.to(rows.device).gather(1, rows)


def padding_of(mask: Any, length: int | None) -> Tensor | None:
    """bool [B, length], which tokens of a prompt are no padding, of a mask that the model made before its decoder.

    Args:
        mask: [B, 1, length, length], or one for each kind of layer.
        length: None while decoding: nothing more is padding then, and what was is left out behind a cut.

    Raises:
        FlowCutError: it is of another shape, as one for a static cache.
    """
    whole = mask.get("full_attention") if isinstance(mask, Mapping) else mask
    if whole is None or length is None:
        return None
    if whole.shape[-2:] != (length, length):
        raise FlowCutError(
            "The language model was given a mask for a cache of fixed size: leave the cache at its default for a cut "
            "inside the language model."
        )
    last: Tensor = whole[:, 0, -1]  # the last token of a prompt sees all that are there
    return last if last.dtype == torch.bool else last == 0


def is_ready_made(mask: Any) -> bool:
    """Whether a model made the mask itself: one of four dimensions, or one for each kind of layer."""
    return isinstance(mask, Mapping) or (isinstance(mask, Tensor) and mask.ndim == 4)


def makes_own_masks(decoder: nn.Module) -> bool:
    """Whether a model around this decoder makes its masks before it is called."""
    return str(getattr(getattr(decoder, "config", None), "model_type", "")).startswith("gemma")
