"""InternVL3 and InternVL3.5: a tower with a CLS token, tiles and a thumbnail, squares of 2 x 2 patches joined."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from flowcut.criteria.stages import DECODER, ENCODER, PROJECTOR, Stage
from flowcut.encoder.recording import Recording
from flowcut.errors import FlowCutError
from flowcut.families.family import MediaKind
from flowcut.families.grids import on_whole_grids, removed_after
from flowcut.families.llava_build import size_entry
from flowcut.families.pixel_shuffle import PixelShuffle, kinds, runs, stretched
from flowcut.published import PUBLISHED
from flowcut.records.vision import Geometry


class InternVL(PixelShuffle):
    """The family of `InternVLForConditionalGeneration`."""

    name = "InternVL"
    model_class = "InternVLForConditionalGeneration"
    towers: tuple[str, ...] = ("internvl_vision",)
    description = "InternVL3 and InternVL3.5 (InternVLForConditionalGeneration)"
    published = PUBLISHED["internvl"]
    media: tuple[MediaKind, ...] = tuple(replace(kind, flat=True) for kind in kinds())
    processor_class: str | None = "InternVLProcessor"
    stages: tuple[Stage, ...] = (ENCODER, PROJECTOR, DECODER)
    most_frames = 64
    default_prompt = "<|im_start|>user\n{picture}\n{question}<|im_end|>\n<|im_start|>assistant\n"

    def placeholder_id(self, model: PreTrainedModel, kind: MediaKind | None = None) -> int:
        """The id of `<IMG_CONTEXT>`, for pictures and frames alike."""
        return int(model.config.image_token_id)

    def complete_processor(self, processor: Any, model: PreTrainedModel) -> None:
        """How many placeholders a tile has."""
        processor.image_seq_length = model.config.image_seq_length

    def merge_side(self, model: PreTrainedModel) -> int:
        """Patches along a side of the squares that become one token."""
        return round(1 / model.config.downsample_ratio)

    def grid_of_tiles(self, model: PreTrainedModel, pixels: Tensor) -> tuple[int, int, int]:
        """How many tiles the pixels of all media hold, [tiles, 3, H, W], and the rows and columns of patches of each."""
        if pixels.ndim != 4:
            raise FlowCutError(f"The pixels have the shape {tuple(pixels.shape)}: they must be [tiles, 3, height, width].")
        down, across = model.config.vision_config.patch_size
        return len(pixels), pixels.shape[2] // down, pixels.shape[3] // across

    def tiles_in_prompt(self, ids: Tensor, is_place: Tensor, per_tile: int) -> list[int]:
        """Tiles of each picture of one prompt: all of a picture's placeholders stand together."""
        return [(end - start) // per_tile for start, end in runs(is_place)]

    def tile_tokens(self, model: PreTrainedModel, kind: MediaKind, given: Mapping[str, Any]) -> Tensor:
        """[tiles, tokens, width], all tiles through tower, stock shuffle and projector."""
        encoded = cast(Any, model).get_image_features(pixel_values=given[kind.inputs[0]], return_dict=True)
        tokens: Tensor = encoded.pooler_output
        return tokens

    @contextmanager
    def on_whole_tiles(self, model: PreTrainedModel, recording: Recording, n_patches: int) -> Iterator[None]:
        """While inside, the tower hands over CLS and whole tiles, pruned patches at zero."""

        def after(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            kept = recording.kept
            if all(len(ids) == n_patches for ids in kept):
                return
            longest = 1 + max(len(ids) for ids in kept)
            output.last_hidden_state = _with_cls(output.last_hidden_state, kept, n_patches)
            if output.hidden_states is not None:  # those from the feature layer on are cut, and one of them is read
                output.hidden_states = tuple(
                    _with_cls(one, kept, n_patches) if one is not None and one.shape[1] == longest else one
                    for one in output.hidden_states
                )

        with removed_after(self.vision_tower(model).register_forward_hook(after)):
            yield

    def joined_projector(self, model: PreTrainedModel) -> nn.Module:
        """Reads squares joined, and is the whole projector."""
        return self.projector(model)

    def geometries(self, model: PreTrainedModel, image_processor: Any, size: tuple[int, int]) -> tuple[Geometry, ...]:
        """The crops row by row, then the thumbnail; a picture of one tile has none."""
        width, height = size
        down, across = _side(image_processor, "height"), _side(image_processor, "width")
        cols = rows = 1
        if image_processor.max_patches > 1:  # the processor asks for crops whatever the image processor's own setting
            arrange = sys.modules[type(image_processor).__module__].get_optimal_tiled_canvas
            counts = image_processor.min_patches, image_processor.max_patches
            cols, rows = arrange((height, width), (down, across), *counts)
        return stretched(size, rows, cols, (across, down), model.config.vision_config.patch_size[0])

    def frame_geometries(
        self, model: PreTrainedModel, video_processor: Any, size: tuple[int, int], frames: int
    ) -> tuple[Geometry, ...]:
        """Each frame is a tile."""
        geometry = self.geometry(video_processor, size, model.config.vision_config.patch_size[0])
        return tuple(replace(geometry, view=f"frame {frame + 1}") for frame in range(frames))


def _with_cls(hidden: Tensor, kept: list[Tensor], n_patches: int) -> Tensor:
    """[tiles, 1 + n_patches, width] from [tiles, 1 + longest, width], CLS first."""
    return torch.cat([hidden[:, :1], on_whole_grids(hidden[:, 1:], kept, n_patches)], dim=1)


def _side(image_processor: Any, name: str) -> int:
    side = size_entry(image_processor.size, name)
    if side is None:
        raise FlowCutError(f"The processor's size is {image_processor.size}: InternVL's tiles need height and width.")
    return side
