"""Qwen2-VL and Qwen2.5-VL: pictures of any shape in one sequence of patches, merged by squares into tokens.

The encoder has no CLS token: a proxy stands in. Squares of 2 x 2 patches (merge groups) are kept or cut whole, and a
budget counts squares, which is what the language model reads. Kept squares keep the positions (time, row, column) that
they have in the whole picture.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from flowcut.criteria.stages import ENCODER, Stage
from flowcut.cut import CutConfig
from flowcut.encoder.recording import Recording
from flowcut.errors import FlowCutError
from flowcut.families.family import IMAGE, EncodedMedium, MediaKind
from flowcut.families.grids import token_sources
from flowcut.families.llava_build import LlavaBuild, size_entry
from flowcut.published import PUBLISHED
from flowcut.records.vision import Geometry

# Of each kind the patches, then the slices in time, rows and columns of each medium.
PICTURES = MediaKind("image", ("pixel_values", "image_grid_thw"))
VIDEOS = MediaKind("video", ("pixel_values_videos", "video_grid_thw", "second_per_grid_ts"))


class QwenVL(LlavaBuild):
    """The families of `Qwen2VLForConditionalGeneration` and `Qwen2_5_VLForConditionalGeneration`."""

    default_prompt = "<|im_start|>user\n{picture}{question}<|im_end|>\n<|im_start|>assistant\n"
    media: tuple[MediaKind, ...] = (PICTURES, VIDEOS)
    counts_by_picture = True
    stages: tuple[Stage, ...] = (ENCODER,)
    merges_patches = True
    positions_are_places = True
    frames = 8
    most_frames = 768

    def __init__(self, model_type: str, name: str, model_class: str, processor_class: str) -> None:
        self.name = name
        self.model_class = model_class
        self.towers = (f"{model_type}_vision",)
        self.processor_class = processor_class
        self.description = f"{name} ({model_class})"
        self.published = PUBLISHED[model_type]

    def vision_tower(self, model: PreTrainedModel, kind: MediaKind = IMAGE) -> nn.Module:
        """The vision encoder inside the model, the same for all media."""
        return self._part(model, "visual")

    def projector(self, model: PreTrainedModel) -> nn.Module:
        """The merger: squares of patches in, tokens out."""
        return self.vision_tower(model).get_submodule("merger")

    def feature_layer(self, model: PreTrainedModel) -> int | list[int]:
        """The merger reads the last layer."""
        return -1

    def n_patches(self, model: PreTrainedModel) -> int:
        """The most tokens that a picture could be: it has as many as its size asks for, and the prompt must fit."""
        return int(model.config.text_config.max_position_embeddings)

    def place_text(self, processor: Any, kind: MediaKind) -> str:
        """A medium's place in a prompt."""
        return f"<|vision_start|>{super().place_text(processor, kind)}<|vision_end|>"

    def geometry(self, image_processor: Any, size: tuple[int, int], patch: int) -> Geometry:
        """How the processor lays a picture of (width, height) on the patch grid: resized to whole squares, not cropped.

        Raises:
            FlowCutError: the processor does not resize, and the picture is not of whole squares.
        """
        width, height = size
        rows, cols = self._grid(image_processor, width, height)
        return Geometry(
            original_width=width,
            original_height=height,
            resized_width=cols * patch,
            resized_height=rows * patch,
            crop_left=0,
            crop_top=0,
            input_width=cols * patch,
            input_height=rows * patch,
            patch=patch,
            grid_rows=rows,
            grid_cols=cols,
        )

    def frame_geometries(
        self, model: PreTrainedModel, video_processor: Any, size: tuple[int, int], frames: int
    ) -> tuple[Geometry, ...]:
        """One for each slice in time: its frames lie alike; a last one short of frames repeats the video's last."""
        geometry = self.geometry(video_processor, size, model.config.vision_config.patch_size)
        step = video_processor.temporal_patch_size
        slices = [(first + 1, min(first + step, frames)) for first in range(0, frames, step)]
        names = [f"frame {first}" if first == last else f"frames {first} to {last}" for first, last in slices]
        return tuple(replace(geometry, view=name) for name in names)

    def placeholders(self, model: PreTrainedModel, kind: MediaKind, given: Mapping[str, Any]) -> list[int]:
        """One for each square of patches.

        Raises:
            FlowCutError: patches and grids are not of one processor's making.
        """
        pixels, grid = kind.inputs[:2]
        if given.get(grid) is None:
            raise FlowCutError(f"{grid} is missing beside {pixels}: hand over all that the processor gave.")
        patches = given[grid].prod(-1)
        if len(given[pixels]) != int(patches.sum()):
            raise FlowCutError(
                f"{pixels} holds {len(given[pixels])} patches and {grid} speaks of {int(patches.sum())}: take both "
                "from one processor."
            )
        counts: list[int] = (patches // self._square(model)).tolist()
        return counts

    def encode(
        self,
        model: PreTrainedModel,
        recording: Recording,
        kind: MediaKind,
        given: Mapping[str, Any],
        cut: CutConfig | None,
    ) -> list[EncodedMedium]:
        """All pictures or videos in one sequence; what the cut took comes out as zeros, and is left out."""
        parts: Any = model
        features = parts.get_image_features if kind is PICTURES else parts.get_video_features
        pixels, grids = (given[name] for name in kind.inputs[:2])
        whole = features(pixels, grids, return_dict=True).pooler_output
        rows = token_sources(recording)
        encoded, first = [], 0
        for tokens, places, slices in zip(whole, recording.kept_tokens, grids[:, 0].tolist(), strict=True):
            patches = torch.cat(rows[first : first + slices])
            shares = torch.full(patches.shape[:2], 1 / patches.shape[1], dtype=torch.float32, device=patches.device)
            encoded.append(EncodedMedium(tokens[places], places, patches, shares))
            first += slices
        return encoded

    def positions(self, model: PreTrainedModel, inputs: Mapping[str, Any]) -> Tensor | None:
        """int64 [3, batch, length], time, row and column of every token, by the model's own `get_rope_index`."""
        parts: Any = model
        names = ("input_ids", "image_grid_thw", "video_grid_thw", "second_per_grid_ts", "attention_mask")
        known = {name: inputs[name] for name in names if inputs.get(name) is not None}
        types = inputs.get("mm_token_type_ids")
        if types is None:
            image, video = (inputs["input_ids"] == self.placeholder_id(model, kind) for kind in self.media)
            types = image.int() + 2 * video.int()
        positions: Tensor = parts.model.get_rope_index(mm_token_type_ids=types, **known)[0]
        return positions

    def _square(self, model: PreTrainedModel) -> int:
        return int(model.config.vision_config.spatial_merge_size) ** 2

    def _grid(self, image_processor: Any, width: int, height: int) -> tuple[int, int]:
        """Rows and columns of patches that the processor makes of a picture."""
        side = image_processor.patch_size * image_processor.merge_size
        if image_processor.do_resize:
            least, most = (size_entry(image_processor.size, name) for name in ("shortest_edge", "longest_edge"))
            # Its own function, which lies in one module without torchvision and in another with it.
            smart_resize = sys.modules[type(image_processor).__module__].smart_resize
            height, width = smart_resize(height, width, factor=side, min_pixels=least, max_pixels=most)
        if width % side or height % side:
            raise FlowCutError(
                f"The picture is {width} x {height} and its processor does not resize: it must be of whole squares of "
                f"{side} pixels."
            )
        return height // image_processor.patch_size, width // image_processor.patch_size
