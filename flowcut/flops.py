"""Floating-point operations, counted from the model's own layers and the number of tokens that each of them saw.

A multiply-add counts as two operations. Counted: linear layers, the patch embedding, and the two products of
attention (causal in the decoder: half the square). Left out, being small: norms, activations, softmax, scoring.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from flowcut.record import PADDING_ID, FlowRecord
from flowcut.results import Flops


def count_flops(
    encoder_layers: list[nn.Module],
    patch_embedding: nn.Module,
    projector: nn.Module,
    language_model: nn.Module,
    head: nn.Module,
    config: Any,
    record: FlowRecord,
    visual_tokens: int,
    layer_tokens: Sequence[int],
    answer_tokens: int,
) -> Flops:
    """One run's operations, by stage.

    Args:
        config: the whole model's configuration.
        record: what the encoder did with the picture; its steps suffice.
        visual_tokens: at the language model's door.
        layer_tokens: tokens of the prompt, visual ones included, that each decoder layer read.
        answer_tokens: tokens generated; the first of them is prefill's.
    """
    text = config.text_config
    width = text.num_attention_heads * (getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads)
    per_layer = linear_flops(language_model) / text.num_hidden_layers
    per_key, to_words = 4.0 * width, linear_flops(head)
    steps = range(1, answer_tokens)  # each attends to the prompt, the answer so far and itself
    projected = max(visual_tokens, int((record.kept_patch_ids != PADDING_ID).sum()))
    return Flops(
        vision=record.batch * _vision(encoder_layers, patch_embedding, config.vision_config.hidden_size, record),
        projector=projected * linear_flops(projector),
        prefill=sum(n * per_layer + per_key * n * (n + 1) / 2 for n in layer_tokens) + to_words,
        decode=sum(per_layer + per_key * (n + step) for step in steps for n in layer_tokens) + to_words * len(steps),
    )


def linear_flops(module: nn.Module) -> float:
    """Operations that one token costs in all linear layers of a module."""
    layers = (part for part in module.modules() if isinstance(part, nn.Linear))
    return float(sum(2 * layer.in_features * layer.out_features for layer in layers))


def tokens_by_layer(record: FlowRecord) -> list[int]:
    """Tokens, CLS included, that entered each vision layer; cut per image: the most of any image."""
    after = {step.layer: step.alive_after for step in record.steps}
    alive, counts = record.n_patches, []
    for layer in range(record.n_layers):
        counts.append(alive + 1)
        alive = after.get(layer, alive)
    return counts


def _vision(layers: list[nn.Module], patch_embedding: Any, width: int, record: FlowRecord) -> float:
    embedding = 2.0 * patch_embedding.weight.numel() * record.n_patches
    encoder = sum(
        tokens * linear_flops(layer) + 4.0 * width * tokens**2
        for layer, tokens in zip(layers, tokens_by_layer(record), strict=True)
    )
    return embedding + encoder + _scouting(layers, width, record)


def _scouting(layers: list[nn.Module], width: int, record: FlowRecord) -> float:
    """A method that asks a layer beyond the feature layer has it run on all patches once more, up to its attention."""
    if record.cut is None or record.cut.layer is None or not record.steps:
        return 0.0
    last = record.cut.layer % record.n_layers
    tokens = record.n_patches + 1
    ahead = layers[record.feature_layer + 1 : last + 1]
    return sum(tokens * linear_flops(layer) + 4.0 * width * tokens**2 for layer in ahead)
