"""Qwen2-VL and Qwen2.5-VL: pictures of any shape in one sequence of patches, merged by squares into tokens.

The encoder has no CLS token: a proxy stands in. Squares of 2 x 2 patches (merge groups) are kept or cut whole, and a
budget counts squares, which is what the language model reads. Kept squares keep the positions (time, row, column) that
they have in the whole picture.

FlowCut as released for Qwen2-VL prunes in two stages: twice the budget leaves the encoder, and decoder layer 1 keeps
the budget, at the positions that the tokens had. Its variant `paper` prunes once, in the encoder.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from flowcut.criteria.stages import DECODER, ENCODER, PROJECTOR, Stage
from flowcut.cut import CutConfig
from flowcut.encoder.recording import Recording
from flowcut.errors import FlowCutError, InvalidCut
from flowcut.families.family import IMAGE, EncodedMedium, MediaKind
from flowcut.families.grids import token_sources
from flowcut.families.llava_build import LlavaBuild, size_entry
from flowcut.published import PUBLISHED
from flowcut.records.vision import Geometry

# Of each kind the patches, then the slices in time, rows and columns of each medium.
PICTURES = MediaKind("image", ("pixel_values", "image_grid_thw"))
VIDEOS = MediaKind("video", ("pixel_values_videos", "video_grid_thw", "second_per_grid_ts"))


TWICE = (
    "FlowCut as released for Qwen2-VL: an encoder's score is attention times value norm, twice the budget leaves the "
    "encoder, and decoder layer 1 then keeps the budget."
)
ONCE = (
    "The released Qwen code prunes in two stages, twice the budget leaving the encoder and the budget decoder layer 1; "
    "this run prunes once, in the encoder, to the budget."
)


class QwenVL(LlavaBuild):
    """The families of `Qwen2VLForConditionalGeneration` and `Qwen2_5_VLForConditionalGeneration`."""

    default_prompt = "<|im_start|>user\n{picture}{question}<|im_end|>\n<|im_start|>assistant\n"
    media: tuple[MediaKind, ...] = (PICTURES, VIDEOS)
    counts_by_picture = True
    stages: tuple[Stage, ...] = (ENCODER, PROJECTOR, DECODER)
    language_layer: int | None = 1
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
        return self._laid(size, self._grid(image_processor, *size), patch)

    def _laid(self, size: tuple[int, int], grid: tuple[int, int], patch: int) -> Geometry:
        """A picture of (width, height) resized to a grid of (rows, columns)."""
        (width, height), (rows, cols) = size, grid
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
        grid = self._video_grid(video_processor, *size, frames)
        geometry = self._laid(size, grid, model.config.vision_config.patch_size)
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
        twice = self.flowcut_layer(model, cut) is not None and self.in_one_run(kind)
        recording.recut(_in_the_tower(cut, twice, int(grids[:, 0].max())), recording.plan.merge_side)
        whole = features(pixels, grids, return_dict=True)
        deepstack = _by_medium(getattr(whole, "deepstack_features", None), len(grids))
        rows = token_sources(recording)
        encoded, first = [], 0
        of_media = zip(whole.pooler_output, deepstack, recording.kept_tokens, grids[:, 0].tolist(), strict=True)
        for tokens, added, places, slices in of_media:
            patches = torch.cat(rows[first : first + slices])
            shares = torch.full(patches.shape[:2], 1 / patches.shape[1], dtype=torch.float32, device=patches.device)
            kept_added = None if added is None else added[places]
            encoded.append(EncodedMedium(tokens[places], places, patches, shares, kept_added))
            first += slices
        return encoded

    def flowcut_layer(self, model: PreTrainedModel, cut: CutConfig | None) -> int | None:
        """As released after decoder layer 1, where the decoder can be cut; in the variant `paper` not at all."""
        if cut is None or not cut.by_flowcut or cut.variant != "official":
            return None
        return None if self.decoder_reason(model) else self.language_layer

    def decoder_reason(self, model: PreTrainedModel) -> str | None:
        """A tiny decoder has no two layers to cut between."""
        layers = model.config.text_config.num_hidden_layers
        return None if layers > 1 else "This language model has a single layer, and tokens go between two."

    def differs(self, model: PreTrainedModel, cut: CutConfig | None) -> tuple[str, ...]:
        """That FlowCut cuts once, where it does."""
        if cut is None or not cut.by_flowcut or self.flowcut_layer(model, cut) is not None:
            return ()
        return (ONCE,)

    def notes(self, cut: CutConfig | None) -> tuple[str, ...]:
        """How the budget is shared out between the stages."""
        if cut is None or not cut.by_flowcut or cut.variant != "official":
            return ()
        return (TWICE,)

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

    def _video_grid(self, video_processor: Any, width: int, height: int, frames: int) -> tuple[int, int]:
        """Rows and columns of patches that the processor makes of each frame."""
        return self._grid(video_processor, width, height)

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


def _in_the_tower(cut: CutConfig | None, twice: bool, slices: int) -> CutConfig | None:
    """What leaves the encoder: twice the budget, where the decoder cuts once more.

    Raises:
        InvalidCut: that is less than a token for each of a video's slices in time.
    """
    if cut is None or not twice:
        return cut
    if 2 * cut.tokens < slices:
        raise InvalidCut(
            f"tokens is {cut.tokens}, and this video is {slices} slices in time, each of which keeps at least one of "
            f"twice the budget: choose {(slices + 1) // 2} or more, or sample fewer frames."
        )
    return replace(cut, tokens=2 * cut.tokens)


def _by_medium(by_layer: Sequence[Sequence[Tensor]] | None, count: int) -> list[Tensor | None]:
    """Per medium [n, m, width], from what is added behind each of m layers, by medium [n, width]; None: nothing is."""
    if not by_layer:
        return [None] * count
    return [torch.stack(parts, dim=1) for parts in zip(*by_layer, strict=True)]
