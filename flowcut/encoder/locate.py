"""Where the parts of a vision encoder are: its layers, their attention, its patch embedding. One entry per encoder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from flowcut.errors import FlowCutError, InvalidCut
from flowcut.hooks.model_facts import model_facts
from flowcut.hooks.parts import model_type, parts_of

SUPPORTED = {
    "clip_vision_model": "CLIP vision towers (CLIPVisionModel)",
    "siglip_vision_model": "SigLIP vision towers (SiglipVisionModel)",
    "internvl_vision": "the encoder of InternVL (InternVLVisionModel)",
    "smolvlm_vision": "the encoder of SmolVLM2",
    "idefics3_vision": "the encoder of Idefics3",
    "idefics3": "the encoder of Idefics3",  # as older checkpoints call it
    "qwen2_vl_vision": "the encoder of Qwen2-VL",
    "qwen2_5_vl_vision": "the encoder of Qwen2.5-VL",
    "qwen3_vl_vision": "the encoder of Qwen3-VL",
    "qwen3_5_vision": "the encoder of Qwen3.5",
}
"""Encoders by transformers' model_type."""
ENCODER_NAMES = ("", "vision_tower", "vision_model", "visual")
"""Under which a composite model keeps its vision tower; "" is the model itself."""
QWEN_DIFFERS = (
    "The released Qwen code prunes single patches before the 2 x 2 merger, which then joins strangers; this run cuts "
    "whole merge groups, scored by the mean of their patches.",
    "The released Qwen code leaves the borders of attention (cu_seqlens) as they were before the cut; this run moves "
    "them, so that each picture and window attends within itself.",
    "The released Qwen code gives the patches kept the first positions of the picture; this run leaves each its own.",
    "The released Qwen code scores and cuts all pictures of a prompt, and the text between them, as one; this run "
    "gives each its own budget.",
)
QWEN_PAPER_DIFFERS = (
    "The released Qwen code scores attention times value norm alone; this run adds the value similarity to the mean "
    "value, as for encoders with a CLS token.",
    "The released Qwen code prunes for the last time after the encoder's last layer; this run after the one before it.",
)
QWEN3_DIFFERS = (
    *QWEN_DIFFERS,
    "FlowCut was released for Qwen2-VL, and for no newer encoder than Qwen2.5-VL's; this run does the same here.",
)


@dataclass(frozen=True, eq=False)
class VisionEncoder:
    """The parts of one vision encoder that recording and pruning hook into: one row of tokens per picture."""

    model: PreTrainedModel
    layers: list[nn.Module]
    patch_embedding: nn.Module
    """Gives [B, width, rows, columns]; in packed encoders [patches, width]."""
    n_heads: int
    has_cls: bool = True
    """Whether it has a CLS token; else a proxy stands in for it."""
    read_layer: int = -2
    """The hidden state that language models read of it, as in `hidden_states[read_layer]`."""
    differs: tuple[str, ...] = ()
    """What FlowCut does here in another way than its released code, one sentence each."""
    attention_name: str = "self_attn"
    """What a layer calls the module that calls the attention function."""
    takes_mask: bool = True
    """Whether a layer's second argument is an attention mask."""
    paper_differs: tuple[str, ...] = ()
    """What its variant `paper` does so besides."""
    own_release: bool = False
    """Whether FlowCut's release has code for this kind of encoder alone, which `official` follows."""

    def attention(self, layer: nn.Module) -> nn.Module:
        """The module of a layer that calls the attention function."""
        return cast(nn.Module, getattr(layer, self.attention_name))

    def run_unseen(self, layer: nn.Module, hidden: Tensor) -> Tensor:
        """One layer's output, [B, L, width], by its forward: no hook of ours or of transformers sees this run."""
        forward = cast(Any, layer).forward
        output: Tensor = forward(hidden, None) if self.takes_mask else forward(hidden)
        return output

    @property
    def early_mergers(self) -> dict[int, nn.Module]:
        """By layer, what turns patches into tokens behind it, beside the projector behind the last; most have none."""
        return {}

    def facts(self) -> dict[str, Any]:
        """What a record says about the encoder and the libraries it ran on."""
        return model_facts(self.model)

    def differs_under(self, variant: str) -> tuple[str, ...]:
        """What FlowCut's variant does here in another way than its released code, one sentence each."""
        return (*self.differs, *(self.paper_differs if variant == "paper" else ()))


@dataclass(frozen=True, eq=False)
class PackedEncoder(VisionEncoder):
    """An encoder that has all pictures in one sequence, attends in windows, and merges squares of patches (Qwen)."""

    merge_side: int = 2
    """Patches along a side of the squares that become one token."""
    window_side: int | None = None
    """Merge groups along a side of an attention window; None: rows lie in reading order, merge group by merge group."""

    @property
    def merger(self) -> nn.Module:
        """Turns each square of patches into one token of the language model."""
        return cast(nn.Module, self.model.merger)

    @property
    def early_mergers(self) -> dict[int, nn.Module]:
        """By layer those that do so behind it, for features that are added later (Qwen3-VL's deepstack)."""
        mergers = getattr(self.model, "deepstack_merger_list", ())
        return dict(zip(getattr(self.model, "deepstack_visual_indexes", ()), mergers, strict=True))

    def attention(self, layer: nn.Module) -> nn.Module:
        """The module of a layer that calls the attention function."""
        return cast(nn.Module, layer.attn)

    def row_order(self, rows: int, cols: int) -> Tensor:
        """int64 [rows * cols], the patch (in reading order on the grid) that lies in each row of one picture."""
        side, across = self.merge_side, cols // self.merge_side
        patch_ids = torch.arange(rows * cols).view(rows // side, side, across, side).transpose(1, 2)
        groups = patch_ids.reshape(-1, side * side)
        if self.window_side is not None:
            group = torch.arange(len(groups))
            down, right = group // across // self.window_side, group % across // self.window_side
            groups = groups[(down * cols + right).argsort(stable=True)]
        return groups.flatten()


def find_encoder(model: nn.Module) -> VisionEncoder:
    """The vision encoder that `model` is or holds.

    Raises:
        FlowCutError: none is found, or only one of a kind that is not supported.
    """
    candidates = list(parts_of(model, ENCODER_NAMES))
    for candidate in candidates:
        if model_type(candidate) == "internvl_vision":
            return _internvl_encoder(candidate)
        if model_type(candidate) in SUPPORTED and hasattr(candidate, "encoder"):
            return _row_encoder(candidate)
        if model_type(candidate) in SUPPORTED and hasattr(candidate, "merger"):
            return _packed_encoder(candidate)
    kinds = [model_type(candidate) for candidate in candidates] or [type(model).__name__]
    supported = ", ".join(dict.fromkeys(SUPPORTED.values()))
    raise FlowCutError(f"No supported vision encoder in {' / '.join(kinds)}: flowcut reads {supported}.")


def _row_encoder(parts: Any) -> VisionEncoder:
    has_cls = parts.config.model_type == "clip_vision_model"
    return VisionEncoder(
        model=parts,
        layers=list(parts.encoder.layers),
        patch_embedding=parts.embeddings.patch_embedding,
        n_heads=parts.config.num_attention_heads,
        has_cls=has_cls,
        read_layer=-2 if has_cls else -1,
    )


def _internvl_encoder(parts: Any) -> VisionEncoder:
    return VisionEncoder(
        model=parts,
        layers=list(parts.encoder.layer),
        patch_embedding=parts.embeddings.patch_embeddings.projection,
        n_heads=parts.config.num_attention_heads,
        read_layer=-1,
        attention_name="attention",
        takes_mask=False,
    )


def _packed_encoder(parts: Any) -> PackedEncoder:
    config = parts.config
    window = getattr(config, "window_size", None)
    return PackedEncoder(
        model=parts,
        layers=list(parts.blocks),
        patch_embedding=parts.patch_embed.proj,
        n_heads=config.num_heads,
        has_cls=False,
        read_layer=-1,
        differs=QWEN3_DIFFERS if config.model_type.startswith("qwen3") else QWEN_DIFFERS,
        paper_differs=QWEN_PAPER_DIFFERS,
        own_release=True,
        merge_side=config.spatial_merge_size,
        window_side=None if window is None else window // config.patch_size // config.spatial_merge_size,
    )


MIN_SCORED_LAYERS = 1
"""A feature layer has at least one layer before it, which is scored."""


def feature_layer_index(hidden_state: int | list[int] | tuple[int, ...], n_layers: int) -> int:
    """The layer (from 0) whose output is the hidden state a LLaVA reads, `hidden_states[hidden_state]`.

    hidden_states[0] is the embedding, so layer l's output is hidden_states[l + 1]. Where a model joins several
    hidden states, the earliest counts: all of them must already be cut.

    Raises:
        InvalidCut: the index is outside the encoder, or no layer comes before the feature layer.
    """
    return min(_layers_read(hidden_state, n_layers))


def read_layer_index(hidden_state: int | list[int] | tuple[int, ...], n_layers: int) -> int:
    """As `feature_layer_index`, but of several hidden states the deepest: what lies behind it, the model never reads.

    Raises:
        InvalidCut: as for `feature_layer_index`.
    """
    return max(_layers_read(hidden_state, n_layers))


def _layers_read(hidden_state: int | list[int] | tuple[int, ...], n_layers: int) -> list[int]:
    wanted = hidden_state if isinstance(hidden_state, list | tuple) else (hidden_state,)
    indices = [index - 1 if index >= 0 else n_layers + index for index in wanted]
    if not indices or min(indices) < MIN_SCORED_LAYERS or max(indices) >= n_layers:
        raise InvalidCut(
            f"feature_layer is {hidden_state!r} in a vision encoder of {n_layers} layers: flowcut needs a hidden state "
            f"with at least one layer before its own, that is 2 to {n_layers} or {1 - n_layers} to -1."
        )
    return indices
