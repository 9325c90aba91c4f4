"""Gemma 3: a SigLIP tower whose patches are averaged by squares into 256 tokens, which see each other both ways.

Squares of 4 x 4 patches are kept or cut whole inside the tower, by the mean of their patches' scores, so that what is
kept is averaged as the stock model averages it; a budget counts squares, which is what the language model reads.
There is no released code of FlowCut for these models.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.models.gemma3.modeling_gemma3 import get_block_sequence_ids_for_mask

from flowcut.criteria.stages import DECODER, ENCODER, PROJECTOR, Stage
from flowcut.cut import CutConfig
from flowcut.encoder.recording import Recording
from flowcut.families.family import EncodedMedium, MediaKind
from flowcut.families.grids import input_on_whole_grids, token_sources
from flowcut.families.one_grid import OneGrid
from flowcut.published import PUBLISHED
from flowcut.records.vision import Geometry

PAN_AND_SCAN = ("pan_and_scan_min_crop_size", "pan_and_scan_max_num_crops", "pan_and_scan_min_ratio_to_activate")
"""Settings of the crops that the processor may make of a picture."""


class Gemma3(OneGrid):
    """The family of `Gemma3ForConditionalGeneration`."""

    name = "Gemma 3"
    model_class = "Gemma3ForConditionalGeneration"
    description = "Gemma 3 (Gemma3ForConditionalGeneration)"
    towers: tuple[str, ...] = ("siglip_vision_model",)
    published = PUBLISHED["gemma3"]
    media: tuple[MediaKind, ...] = (MediaKind("image", ("pixel_values",), stacked=True),)
    stages: tuple[Stage, ...] = (ENCODER, PROJECTOR, DECODER)
    why_not: Mapping[str, str] = {"picture": "Gemma 3's projector reads one size of grid alone"}
    merges_patches = True
    default_prompt = "{picture}{question}"

    def feature_layer(self, model: PreTrainedModel) -> int | list[int]:
        """The projector reads the last layer."""
        return -1

    def n_patches(self, model: PreTrainedModel) -> int:
        """Tokens of an uncut picture: squares of patches."""
        return int(model.config.mm_tokens_per_image)

    def complete_processor(self, processor: Any, model: PreTrainedModel) -> None:
        """Let the image processor alone say whether crops are made, which the processor would otherwise overrule."""
        names = {"do_pan_and_scan", *PAN_AND_SCAN}
        for name in names & set(processor.images_kwargs):
            setattr(processor.image_processor, name, processor.images_kwargs[name])
        processor.images_kwargs = {name: value for name, value in processor.images_kwargs.items() if name not in names}

    def geometries(self, model: PreTrainedModel, image_processor: Any, size: tuple[int, int]) -> tuple[Geometry, ...]:
        """The whole picture, then its crops, if the processor makes some (pan and scan)."""
        patch = model.config.vision_config.patch_size
        whole = self.geometry(image_processor, size, patch)
        boxes = _crops(image_processor, size)
        return (whole, *(self._crop(whole, box, number) for number, box in enumerate(boxes, 1)))

    def encode(
        self,
        model: PreTrainedModel,
        recording: Recording,
        kind: MediaKind,
        given: Mapping[str, Any],
        cut: CutConfig | None,
    ) -> list[EncodedMedium]:
        """All pictures in one batch, averaged by the stock projector on their full grids; the squares kept go on."""
        side = int(model.config.vision_config.image_size // model.config.vision_config.patch_size)
        recording.recut(cut, side // math.isqrt(self.n_patches(model)))
        with input_on_whole_grids(self.projector(model), recording, side**2):
            features = self.image_features(model, kind, given)
        encoded = []
        for tokens, places, patches in zip(features, recording.kept_groups, token_sources(recording), strict=True):
            shares = torch.full(patches.shape[:2], 1 / patches.shape[1], device=patches.device)
            encoded.append(EncodedMedium(tokens[places], places, patches, shares))
        return encoded

    def notes(self, cut: CutConfig | None) -> tuple[str, ...]:
        """What a budget is of."""
        if cut is None:
            return ()
        return ("Squares of patches that become one token are cut whole; the budget is of each picture or crop.",)

    def blocks(self, model: PreTrainedModel, prepared: Mapping[str, Any]) -> Tensor | None:
        """Each picture's tokens are a block, by the model's own `get_block_sequence_ids_for_mask`."""
        types: Tensor | None = prepared.get("token_type_ids")
        return None if types is None else get_block_sequence_ids_for_mask(types)

    def pairs_ahead(self, tokens: int, visual: Sequence[int]) -> int:
        """The tokens of each picture see each other in both directions."""
        return sum(count * (count - 1) // 2 for count in visual)

    def _crop(self, whole: Geometry, box: tuple[int, int, int, int], number: int) -> Geometry:
        """One crop of a picture, (left, top, right, bottom) in its pixels, stretched over the whole input."""
        left, top, right, bottom = box
        across, down = whole.input_width / (right - left), whole.input_height / (bottom - top)
        return replace(
            whole,
            resized_width=whole.original_width * across,
            resized_height=whole.original_height * down,
            crop_left=left * across,
            crop_top=top * down,
            view=f"crop {number}",
        )


def _crops(image_processor: Any, size: tuple[int, int]) -> list[tuple[int, int, int, int]]:
    """Left, top, right, bottom of each crop that the processor's pan and scan makes of a picture of (width, height).

    It is run on numbers that say which pixel is where.
    """
    if not image_processor.do_pan_and_scan:
        return []
    settings = {name: getattr(image_processor, name) for name in PAN_AND_SCAN}
    width, height = size
    places = np.stack(np.meshgrid(np.arange(width), np.arange(height)))
    crops = image_processor.pan_and_scan(places, **settings)
    return [(*crop[:, 0, 0].tolist(), *(crop[:, -1, -1] + 1).tolist()) for crop in crops]
