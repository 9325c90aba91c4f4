"""bfloat16 for matrices and attention, where the processor has units for it; weights, losses and sums stay float32.

PyTorch's fused attention is slower in bfloat16 than in float32 on a CPU when gradients are taken (two to three times,
measured on 113 to 577 tokens); written out as two products it is twice as fast as fused float32.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel

from training.loop import device

WRITTEN_OUT = "written_out"


def written_out(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **settings: Any
) -> tuple[Tensor, None]:
    """Attention as two products. [B, H, N, d] -> [B, N, H, d]; `attention_mask` is True where attention is allowed."""
    logits = (query * settings["scaling"]).contiguous() @ key.contiguous().mT
    if attention_mask is not None:
        logits = logits.masked_fill(~attention_mask, -torch.inf)
    return (logits.softmax(-1).to(value.dtype) @ value.contiguous()).transpose(1, 2).contiguous(), None


AttentionInterface.register(WRITTEN_OUT, written_out)


def attend_fast(model: PreTrainedModel) -> None:
    """The fastest attention for training on this machine."""
    model.set_attn_implementation(WRITTEN_OUT if device().type == "cpu" else "sdpa")


def half() -> torch.autocast:
    """Around the forward pass."""
    return torch.autocast(device().type, torch.bfloat16)
