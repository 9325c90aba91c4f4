"""Floating-point operations, counted from the model's own layers and the number of tokens that each of them saw.

A multiply-add counts as two operations. Counted: linear layers, the patch embedding, and the two products of
attention (causal in the decoder: half the square, and what a family reads ahead of that); of linear attention its
convolution, and its state token by token (written once, read twice), whatever chunks it is computed in. Left out, being
small: norms, activations, softmax, scoring; and what sliding windows and caps on logits save or cost.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from flowcut.records.run import Flops
from flowcut.records.vision import PADDING_ID, FlowRecord

UNCOUNTED = (
    "Compute of a vision encoder that is not read is that of its linear layers and convolutions, its projector among "
    "them; that of the language model is counted as if each of its layers attended to all tokens."
)
"""What a reader of such a count must know."""


@dataclass(frozen=True, eq=False)
class ModelParts:
    """The layers of a model whose operations are counted."""

    encoder_layers: list[nn.Module]
    patch_embedding: Any
    projector: nn.Module
    language_model: nn.Module
    head: nn.Module
    """From hidden states to the vocabulary."""
    config: Any
    """The full model's configuration."""
    early_projectors: Mapping[int, nn.Module] = field(default_factory=dict)
    """By vision layer, what makes tokens behind it beside the projector (deepstack)."""


@dataclass(frozen=True)
class TokenCounts:
    """How many tokens each part of the model saw in one run."""

    visual_tokens: int
    """In the language model's input."""
    layer_tokens: Sequence[int]
    """Tokens of the prompt, visual ones included, that each decoder layer read."""
    answer_tokens: int
    """Tokens generated; the first of them is prefill's."""
    attended_pairs: Sequence[int]
    """Pairs of query and key in each vision layer, over all its windows."""
    pairs_ahead: Sequence[int] = ()
    """Pairs of a query and a later key that each decoder layer reads in the prompt; empty: it is causal throughout."""
    unread: float | None = None
    """Operations of a vision encoder that is not read, its projector's among them; None: it is read."""


def count_flops(model: ModelParts, record: FlowRecord, counted: TokenCounts) -> Flops:
    """One run's operations, by stage; of the record, what the encoder did with the picture, its steps suffice."""
    text = model.config.text_config
    per_layer = linear_flops(model.language_model) / text.num_hidden_layers
    to_words, steps = linear_flops(model.head), range(1, counted.answer_tokens)
    layers = list(zip(counted.layer_tokens, mixers(text), strict=True))
    kept = int((record.kept_patch_ids != PADDING_ID).sum())
    projected = max(counted.visual_tokens, kept // record.patches_per_token)
    return Flops(
        vision=_vision(model, record, counted.attended_pairs) if counted.unread is None else counted.unread,
        projector=projected * (linear_flops(model.projector) + _bare_matrices(model.projector)) + _early(model, record),
        prefill=sum(n * (per_layer + each) + per_key * n * (n + 1) / 2 for n, (per_key, each) in layers)
        + sum(pairs * per_key for pairs, (_, (per_key, _)) in zip(counted.pairs_ahead, layers, strict=False))
        + to_words,
        # each token of the answer attends to the prompt, the answer so far and itself
        decode=sum(per_layer + each + per_key * (n + step) for step in steps for n, (per_key, each) in layers)
        + to_words * len(steps),
    )


def mixers(text: Any) -> list[tuple[float, float]]:
    """Per decoder layer the operations of one token's attention: for each key, and whatever their number.

    Args:
        text: the decoder's configuration.
    """
    width = text.num_attention_heads * (getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads)
    kinds = getattr(text, "layer_types", None) or [""] * text.num_hidden_layers
    return [(0.0, _linear_attention(text)) if kind == "linear_attention" else (4.0 * width, 0.0) for kind in kinds]


def _linear_attention(text: Any) -> float:
    """One token's convolution over keys, queries and values, and its three products with each head's state."""
    keys = text.linear_num_key_heads * text.linear_key_head_dim
    values = text.linear_num_value_heads * text.linear_value_head_dim
    state = values * text.linear_key_head_dim
    return float(2 * text.linear_conv_kernel_dim * (2 * keys + values) + 3 * 2 * state)


def _early(model: ModelParts, record: FlowRecord) -> float:
    """What makes tokens behind earlier vision layers, of the patches that leave these."""
    kept = int((record.kept_patch_ids != PADDING_ID).sum())
    leaving = [*tokens_by_layer(record)[1:], kept]
    return sum(
        leaving[layer] // record.patches_per_token * linear_flops(merger)
        for layer, merger in model.early_projectors.items()
    )


def linear_flops(module: nn.Module) -> float:
    """Operations that one token costs in all linear layers of a module."""
    layers: Iterator[Any] = (part for part in module.modules() if _is_linear(part))
    return float(sum(2 * layer.in_features * layer.out_features for layer in layers))


def _bare_matrices(module: nn.Module) -> float:
    """Operations that one token costs in matrices that are no linear layers of their own (Gemma 3's projector)."""
    held = (
        weight
        for part in module.modules()
        if not _is_linear(part) and not isinstance(part, nn.Embedding)
        for weight in part._parameters.values()
    )
    return float(sum(2 * weight.numel() for weight in held if weight is not None and weight.ndim == 2))


def _is_linear(module: Any) -> bool:
    """Quantised layers are linear too, and not all of them are an `nn.Linear`."""
    return isinstance(module, nn.Linear) or all(hasattr(module, name) for name in ("in_features", "out_features"))


def tokens_by_layer(record: FlowRecord) -> list[int]:
    """Tokens, CLS included where there is one, that entered each vision layer, over all rows of the record."""
    cls = record.batch if record.relay == "cls" else 0
    after = {step.layer: int(step.kept_after_per_image.sum()) for step in record.steps}
    n_kept, counts = _patches(record), []
    for layer in range(record.n_layers):
        counts.append(n_kept + cls)
        n_kept = after.get(layer, n_kept)
    return counts


def _patches(record: FlowRecord) -> int:
    """Patches that entered the encoder, over all rows."""
    return int((record.pruned_at_layer != PADDING_ID).sum())


def _encoder_width(vision_config: Any) -> int:
    """Qwen2-VL calls its language model's width hidden_size here, and its encoder's own embed_dim."""
    return int(getattr(vision_config, "embed_dim", vision_config.hidden_size))


def _vision(model: ModelParts, record: FlowRecord, attended_pairs: Sequence[int]) -> float:
    layers, width = model.encoder_layers, _encoder_width(model.config.vision_config)
    embedding: float = 2.0 * model.patch_embedding.weight.numel() * _patches(record)
    encoder = sum(
        tokens * linear_flops(layer) + 4.0 * width * pairs
        for layer, tokens, pairs in zip(layers, tokens_by_layer(record), attended_pairs, strict=True)
    )
    return embedding + encoder + _lookahead(layers, width, record)


def _lookahead(layers: list[nn.Module], width: int, record: FlowRecord) -> float:
    """A method that asks a layer beyond the feature layer has it run on all patches once more, up to its attention."""
    if record.cut is None or record.cut.layer is None or not record.steps:
        return 0.0
    last = record.cut.layer % record.n_layers
    tokens = record.n_patches + (1 if record.relay == "cls" else 0)
    ahead = layers[record.feature_layer + 1 : last + 1]
    return record.batch * sum(tokens * linear_flops(layer) + 4.0 * width * tokens**2 for layer in ahead)
