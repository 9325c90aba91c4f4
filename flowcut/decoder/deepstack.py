"""Features that a model adds to its visual tokens behind its first decoder layers, cut as the tokens are (Qwen3-VL).

The stock decoder adds them in its own loop, after each layer's hooks. While a prompt is cut they are added by hooks of
ours, before the cut after that layer: what is scored and cut is what the next layer reads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from flowcut.decoder.kept_rows import KeptRows

ARGUMENTS = ("visual_pos_masks", "deepstack_visual_embeds")
"""Of the decoder: where the visual tokens are, bool [B, L], and per layer what is added to them, [V, width]."""


def adds_features(decoder: nn.Module) -> bool:
    """Whether it is a decoder that can add features behind its layers."""
    return hasattr(decoder, "_deepstack_process")


@dataclass(frozen=True, eq=False)
class Deepstack:
    """What one prefill adds to its visual tokens."""

    decoder: nn.Module
    is_visual: Tensor
    features: Sequence[Tensor]

    @classmethod
    def taken_from(cls, decoder: nn.Module, given: Mapping[str, Any]) -> Deepstack | None:
        """From the keyword arguments of the decoder; None where there is nothing to add."""
        is_visual, features = (given.get(name) for name in ARGUMENTS)
        return None if is_visual is None or features is None else cls(decoder, is_visual, features)

    def added(self, layer: int, hidden: Tensor, kept_rows: KeptRows | None) -> Tensor | None:
        """[B, L', width], what leaves a layer with the features that belong to it; None: there are none.

        Args:
            layer: in the decoder, from 0.
            hidden: [B, L', width], what leaves it.
            kept_rows: what earlier cuts left of the prompts; None: everything.
        """
        if layer >= len(self.features):
            return None
        is_visual, features = self.is_visual.to(hidden.device), self.features[layer].to(hidden.device)
        if kept_rows is not None:
            stays = torch.zeros_like(is_visual)
            for prompt, (rows, live) in enumerate(zip(kept_rows.rows, kept_rows.live, strict=True)):
                stays[prompt, rows[live]] = True
            features = features[stays[is_visual]]
            is_visual = is_visual.gather(1, kept_rows.rows) & kept_rows.live
        whole: Tensor = cast(Any, self.decoder)._deepstack_process(hidden, is_visual, features)
        return whole
