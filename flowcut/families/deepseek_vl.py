"""DeepSeek-VL: a SigLIP tower over one padded square, each patch one token; the hybrid reads SAM's features beside it.

There is no released code of FlowCut for these models. Of the hybrid, the cut is made in its SigLIP tower: SAM reads a
picture of 1024 x 1024 px through convolutions and stays whole, and its feature at a patch goes with that patch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from flowcut.criteria.stages import DECODER, ENCODER, PROJECTOR, STAGES, Stage
from flowcut.cut import CutConfig
from flowcut.encoder.recording import Recording
from flowcut.families.family import IMAGE, EncodedMedium, MediaKind
from flowcut.families.grids import input_on_whole_grids
from flowcut.families.llava_build import size_entry
from flowcut.families.one_grid import OneGrid, one_token_each
from flowcut.published import PUBLISHED
from flowcut.records.vision import Geometry


class DeepseekVL(OneGrid):
    """The family of `DeepseekVLForConditionalGeneration`."""

    name = "DeepSeek-VL"
    model_class = "DeepseekVLForConditionalGeneration"
    description = "DeepSeek-VL (DeepseekVLForConditionalGeneration)"
    towers: tuple[str, ...] = ("siglip_vision_model",)
    published: tuple[str, ...] = PUBLISHED["deepseek_vl"]
    media: tuple[MediaKind, ...] = (MediaKind("image", ("pixel_values",), stacked=True),)
    stages: tuple[Stage, ...] = tuple(STAGES.values())
    default_prompt = "User: {picture}{question}\n\nAssistant:"

    def vision_tower(self, model: PreTrainedModel, kind: MediaKind = IMAGE) -> nn.Module:
        """The SigLIP tower."""
        return self._part(model, "vision_model")

    def projector(self, model: PreTrainedModel) -> nn.Module:
        """What turns patch features into the language model's tokens."""
        return self._part(model, "aligner")

    def feature_layer(self, model: PreTrainedModel) -> int | list[int]:
        """The aligner reads the last layer."""
        return -1

    def complete_processor(self, processor: Any, model: PreTrainedModel) -> None:
        """Say to a processor what it needs to count placeholders."""
        processor.num_image_tokens = self.n_patches(model)

    def geometry(self, image_processor: Any, size: tuple[int, int], patch: int) -> Geometry:
        """How the processor lays a picture of (width, height) on its square: the long side fills it, the rest pads."""
        side, longest = size_entry(image_processor.size, "height") or 0, max(size)
        width, height = (max(round(part * (side / longest)), image_processor.min_size) for part in size)
        return Geometry(
            original_width=size[0],
            original_height=size[1],
            resized_width=width,
            resized_height=height,
            crop_left=-((side - width) // 2),
            crop_top=-((side - height) // 2),
            input_width=side,
            input_height=side,
            patch=patch,
            grid_rows=side // patch,
            grid_cols=side // patch,
        )


class DeepseekVLHybrid(DeepseekVL):
    """The family of `DeepseekVLHybridForConditionalGeneration`."""

    name = "DeepSeek-VL hybrid"
    model_class = "DeepseekVLHybridForConditionalGeneration"
    description = "DeepSeek-VL hybrid (DeepseekVLHybridForConditionalGeneration), cut in its SigLIP tower"
    published: tuple[str, ...] = PUBLISHED["deepseek_vl_hybrid"]
    media: tuple[MediaKind, ...] = (MediaKind("image", ("pixel_values", "high_res_pixel_values"), stacked=True),)
    stages: tuple[Stage, ...] = (ENCODER, PROJECTOR, DECODER)

    def encode(
        self,
        model: PreTrainedModel,
        recording: Recording,
        kind: MediaKind,
        given: Mapping[str, Any],
        cut: CutConfig | None,
    ) -> list[EncodedMedium]:
        """The kept patches are put back on the full grid before they meet SAM's features; then they alone go on."""
        parts: Any = model.model
        pixels = {name: given[name] for name in kind.inputs}
        with input_on_whole_grids(self.projector(model), recording, self.n_patches(model)):
            features = parts.get_image_features(**pixels, return_dict=True).pooler_output
        kept = recording.kept_patch_ids
        read = torch.stack([own[ids] for own, ids in zip(features, kept, strict=True)])
        return one_token_each(read, kept, 0)

    def notes(self, cut: CutConfig | None) -> tuple[str, ...]:
        """What is not shown and not cut."""
        return (
            "This model sees a picture twice: the record is of its SigLIP tower; its SAM tower is not recorded, not "
            "cut, and its operations are not counted.",
        )
