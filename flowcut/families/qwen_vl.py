"""Qwen2-VL and Qwen2.5-VL: pictures of any shape in one sequence of patches, merged by squares into tokens.

The encoder has no CLS token: a proxy stands in. Squares of 2 x 2 patches (merge groups) are kept or cut whole, and a
budget counts squares, which is what the language model reads. Survivors keep the positions (time, row, column) that
they have in the whole picture.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import BatchFeature, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

from flowcut.errors import FlowCutError
from flowcut.families.llava import Llava, _entry
from flowcut.prompts import drop_tokens, text_positions
from flowcut.record import Geometry
from flowcut.vision import Recording

MEDIA = {"image": ("pixel_values", "image_grid_thw"), "video": ("pixel_values_videos", "video_grid_thw")}
"""What the processor gives for each kind: patches, and the slices in time, rows and columns of each."""


class QwenVL(Llava):
    """The families of `Qwen2VLForConditionalGeneration` and `Qwen2_5_VLForConditionalGeneration`."""

    default_prompt = "<|im_start|>user\n{picture}{question}<|im_end|>\n<|im_start|>assistant\n"
    counts_by_picture = True
    stages: tuple[str, ...] = ("encoder",)
    merges_patches = True

    def __init__(self, name: str, model_class: str, tower: str, processor_class: str) -> None:
        self.name = name
        self.model_class = model_class
        self.towers = (tower,)
        self.processor_class = processor_class
        self.description = f"{name} ({model_class})"

    def vision_tower(self, model: PreTrainedModel) -> nn.Module:
        """The vision encoder inside the model."""
        return self._part(model, "visual")

    def projector(self, model: PreTrainedModel) -> nn.Module:
        """The merger: squares of patches in, tokens out."""
        merger: nn.Module = self.vision_tower(model).merger  # type: ignore[assignment]
        return merger

    def feature_layer(self, model: PreTrainedModel) -> int | list[int]:
        """The merger reads the last layer."""
        return -1

    def cls_tokens(self, model: PreTrainedModel) -> int:
        """None."""
        return 0

    def n_patches(self, model: PreTrainedModel) -> int:
        """The most tokens that a picture could be: it has as many as its size asks for, and the prompt must fit."""
        return int(model.config.text_config.max_position_embeddings)

    def complete_processor(self, processor: Any, model: PreTrainedModel) -> None:
        """It knows all it needs."""

    def picture_text(self, processor: Any) -> str:
        """A picture's place in a prompt."""
        return f"<|vision_start|>{processor.image_token}<|vision_end|>"

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

    def prepare(self, model: PreTrainedModel, recording: Recording, inputs: Mapping[str, Any]) -> BatchFeature:
        """Encode pictures or videos inside `recording`, which is in force; cut placeholders and positions to match.

        Positions are those of the whole prompt, computed by the model's own `get_rope_index` and handed over as
        `position_ids`, int64 [4, batch, length]: the place among the tokens left, then time, row and column.

        Raises:
            FlowCutError: placeholders and pictures do not match, or the prompt holds pictures and a video.
        """
        prepared = dict(inputs)
        kinds = [kind for kind, (pixels, _) in MEDIA.items() if prepared.get(pixels) is not None]
        if not kinds:
            return BatchFeature(prepared)
        if len(kinds) > 1:
            raise FlowCutError("The prompt holds pictures and a video: put one kind at a time into a prompt.")
        kind = kinds[0]
        is_visual = prepared["input_ids"] == self._placeholder(model, kind)
        self._check_grids(model, prepared, kind, int(is_visual.sum()))
        grids = prepared[MEDIA[kind][1]]
        positions = self._positions(model, prepared)
        with torch.no_grad():
            tokens, kept = self._encode(model, recording, prepared.pop(MEDIA[kind][0]), grids, kind)
        prepared["position_ids"] = positions
        for stale in (*(grid for _, grid in MEDIA.values()), "second_per_grid_ts"):
            prepared.pop(stale, None)
        counts = (grids.prod(-1) // self._square(model)).tolist()
        live = torch.zeros(sum(counts), dtype=torch.bool, device=is_visual.device)
        first = 0
        for count, chosen in zip(counts, kept, strict=True):
            live[first + chosen] = True
            first += count
        stays = ~is_visual
        stays[is_visual] = live
        prepared = drop_tokens(model, prepared, stays)
        prepared["position_ids"] = torch.cat([text_positions(prepared)[None], prepared["position_ids"]])
        prepared["mm_encoder_outputs"] = {kind: BaseModelOutputWithPooling(pooler_output=tokens)}
        return BatchFeature(prepared)

    def _encode(
        self, model: PreTrainedModel, recording: Recording, pixels: Tensor, grids: Tensor, kind: str
    ) -> tuple[Any, tuple[Tensor, ...]]:
        """Per picture its tokens that are left, [n, width], and which of all its tokens these are, int64 [n]."""
        parts: Any = model
        features = parts.get_image_features if kind == "image" else parts.get_video_features
        whole = features(pixels, grids, return_dict=True).pooler_output
        kept = recording.kept_tokens
        return tuple(tokens[chosen] for tokens, chosen in zip(whole, kept, strict=True)), kept

    def _positions(self, model: PreTrainedModel, inputs: Mapping[str, Any]) -> Tensor:
        """int64 [3, batch, length], time, row and column of every token of the uncut prompt."""
        parts: Any = model
        names = ("input_ids", "image_grid_thw", "video_grid_thw", "second_per_grid_ts", "attention_mask")
        known = {name: inputs[name] for name in names if inputs.get(name) is not None}
        types = inputs.get("mm_token_type_ids")
        if types is None:
            ids = inputs["input_ids"]
            image, video = (ids == self._placeholder(model, kind) for kind in MEDIA)
            types = image.int() + 2 * video.int()
        positions: Tensor = parts.model.get_rope_index(mm_token_type_ids=types, **known)[0]
        return positions

    def _check_grids(self, model: PreTrainedModel, inputs: Mapping[str, Any], kind: str, found: int) -> None:
        """Patches, grids and placeholders must be of one processor's making."""
        pixels, grid = MEDIA[kind]
        if inputs.get(grid) is None:
            raise FlowCutError(f"{grid} is missing beside {pixels}: hand over all that the processor gave.")
        patches = int(inputs[grid].prod(-1).sum())
        if len(inputs[pixels]) != patches:
            raise FlowCutError(
                f"{pixels} holds {len(inputs[pixels])} patches and {grid} speaks of {patches}: take both from one "
                "processor."
            )
        wanted = patches // self._square(model)
        if found != wanted:
            raise FlowCutError(
                f"The prompt holds {found} {kind} placeholders, and {len(inputs[grid])} {kind}(s) need {wanted}: write "
                "the placeholder once for each and let the model's own processor expand it."
            )

    def _placeholder(self, model: PreTrainedModel, kind: str) -> int:
        return int(getattr(model.config, f"{kind}_token_id"))

    def _square(self, model: PreTrainedModel) -> int:
        return int(model.config.vision_config.spatial_merge_size) ** 2

    def _grid(self, image_processor: Any, width: int, height: int) -> tuple[int, int]:
        """Rows and columns of patches that the processor makes of a picture."""
        side = image_processor.patch_size * image_processor.merge_size
        if image_processor.do_resize:
            least, most = (_entry(image_processor.size, name) for name in ("shortest_edge", "longest_edge"))
            # Its own function, which lies in one module without torchvision and in another with it.
            smart_resize = sys.modules[type(image_processor).__module__].smart_resize
            height, width = smart_resize(height, width, factor=side, min_pixels=least, max_pixels=most)
        if width % side or height % side:
            raise FlowCutError(
                f"The picture is {width} x {height} and its processor does not resize: it must be of whole squares of "
                f"{side} pixels."
            )
        return height // image_processor.patch_size, width // image_processor.patch_size
