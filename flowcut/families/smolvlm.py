"""SmolVLM2, SmolVLM and Idefics3: tiles with their row and column in the prompt, squares of patches joined.

The tower is like SigLIP's: it has no CLS token, so that a proxy stands in.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, ProcessorMixin
from transformers.image_utils import SizeDict
from transformers.models.smolvlm.processing_smolvlm import DEFAULT_CHAT_TEMPLATE

from flowcut.encoder.recording import Recording
from flowcut.errors import FlowCutError
from flowcut.families.family import IMAGE, MediaKind
from flowcut.families.grids import input_on_whole_grids
from flowcut.families.llava_build import size_entry
from flowcut.families.pixel_shuffle import PixelShuffle, kinds, runs, stretched
from flowcut.published import PUBLISHED
from flowcut.records.vision import Geometry


class Idefics3(PixelShuffle):
    """The family of `Idefics3ForConditionalGeneration`: Idefics3, and the first SmolVLM."""

    name = "Idefics3"
    model_class = "Idefics3ForConditionalGeneration"
    towers: tuple[str, ...] = ("idefics3_vision",)
    description = "Idefics3 and SmolVLM (Idefics3ForConditionalGeneration)"
    published = PUBLISHED["idefics3"]
    media: tuple[MediaKind, ...] = kinds("pixel_attention_mask")[:1]
    frames = 0
    why_not: Mapping[str, str] = {
        "decoder": "here the tiles of a picture have text between them, which no cut there is built for"
    }
    default_prompt = "<|im_start|>User:{picture}{question}<end_of_utterance>\nAssistant:"

    def vision_tower(self, model: PreTrainedModel, kind: MediaKind = IMAGE) -> nn.Module:
        """The vision encoder inside the model, for pictures and frames alike."""
        return self._part(model, "vision_model")

    def projector(self, model: PreTrainedModel) -> nn.Module:
        """The connector: pixel shuffle and projection."""
        return self._part(model, "connector")

    def language_model(self, model: PreTrainedModel) -> nn.Module:
        """The decoder, without its head."""
        return self._part(model, "text_model")

    def feature_layer(self, model: PreTrainedModel) -> int | list[int]:
        """The connector reads the last layer."""
        return -1

    def placeholder_id(self, model: PreTrainedModel, kind: MediaKind = IMAGE) -> int:
        """The id of `<image>`, for pictures and frames alike."""
        return int(model.config.image_token_id)

    def merge_side(self, model: PreTrainedModel) -> int:
        """Patches along a side of the squares that become one token."""
        return int(model.config.scale_factor)

    def grid_of_tiles(self, model: PreTrainedModel, pixels: Tensor) -> tuple[int, int, int]:
        """How many tiles the pixels of all media hold, [prompts, most tiles, 3, H, W], and each one's rows and columns.

        Prompts with fewer tiles are padded with such as are zero throughout.
        """
        if pixels.ndim != 5:
            shape = tuple(pixels.shape)
            raise FlowCutError(f"The pixels have the shape {shape}: they must be [prompts, tiles, 3, height, width].")
        real = int((pixels != 0).flatten(2).any(dim=-1).sum())
        patch = model.config.vision_config.patch_size
        return real, pixels.shape[3] // patch, pixels.shape[4] // patch

    def tiles_in_prompt(self, ids: Tensor, is_place: Tensor, per_tile: int) -> list[int]:
        """Tiles of each picture of one prompt.

        A mark stands before each tile and behind a picture's last one: between two tiles of one picture there is one,
        between two pictures there are two and more.
        """
        found = runs(is_place)
        last = found[-1][1]
        if last == len(ids):
            raise FlowCutError("The prompt ends within a picture: hand over all that the processor gave.")
        counts, mark = [1], ids[last]
        for (_, end), (start, _) in zip(found[:-1], found[1:], strict=True):
            if int((ids[end:start] == mark).sum()) == 1:
                counts[-1] += 1
            else:
                counts.append(1)
        return counts

    def tile_tokens(self, model: PreTrainedModel, kind: MediaKind, given: Mapping[str, Any]) -> Tensor:
        """[tiles, tokens, width], all tiles through tower, stock shuffle and projector."""
        pixels, mask = given[kind.inputs[0]], given.get("pixel_attention_mask")
        by_prompt = cast(Any, model).get_image_features(pixels, mask, return_dict=True).pooler_output
        tokens = torch.cat(list(by_prompt))
        return tokens.view(self.grid_of_tiles(model, pixels)[0], -1, tokens.shape[-1])

    def on_whole_tiles(
        self, model: PreTrainedModel, recording: Recording, n_patches: int
    ) -> AbstractContextManager[None]:
        """While inside, the connector reads whole tiles, pruned patches at zero."""
        return input_on_whole_grids(self.projector(model), recording, n_patches)

    def joined_projector(self, model: PreTrainedModel) -> nn.Module:
        """The connector's projection, behind its shuffle."""
        return self.projector(model).get_submodule("modality_projection")

    def geometries(self, model: PreTrainedModel, image_processor: Any, size: tuple[int, int]) -> tuple[Geometry, ...]:
        """The crops row by row, then the thumbnail; a picture of one tile has none."""
        side = image_processor.max_image_size["longest_edge"]
        rows, cols = _arrangement(image_processor, size) if image_processor.do_image_splitting else (1, 1)
        return stretched(size, rows, cols, (side, side), model.config.vision_config.patch_size)

    def frame_geometries(
        self, model: PreTrainedModel, video_processor: Any, size: tuple[int, int], frames: int
    ) -> tuple[Geometry, ...]:
        """Each frame is stretched over one tile."""
        side, patch = video_processor.max_image_size["longest_edge"], model.config.vision_config.patch_size
        (geometry,) = stretched(size, 1, 1, (side, side), patch)
        return tuple(replace(geometry, view=f"frame {frame + 1}") for frame in range(frames))


class SmolVLM(Idefics3):
    """The family of `SmolVLMForConditionalGeneration`: SmolVLM2."""

    name = "SmolVLM2"
    model_class = "SmolVLMForConditionalGeneration"
    towers: tuple[str, ...] = ("smolvlm_vision",)
    description = "SmolVLM2 (SmolVLMForConditionalGeneration)"
    published = PUBLISHED["smolvlm"]
    media: tuple[MediaKind, ...] = kinds("pixel_attention_mask")
    processor_class: str | None = "SmolVLMProcessor"
    frames = 8
    most_frames = 64

    def _rendered(self, owner: Any, messages: list[dict[str, Any]]) -> str:
        """By transformers' common code: SmolVLM's own sets a video processor up, which may be missing, for no text."""
        if not isinstance(owner, ProcessorMixin):
            return super()._rendered(owner, messages)
        video = any(part["type"] == "video" for message in messages for part in message["content"])
        template = DEFAULT_CHAT_TEMPLATE if video else None  # published templates know no videos
        return str(
            ProcessorMixin.apply_chat_template(owner, messages, template, add_generation_prompt=True, tokenize=False)
        )


class _Shapes:
    """Stands in for an image processor in its own layout code, where only shapes are asked for."""

    def resize(self, image: Any, size: Any, resample: Any = None) -> np.ndarray:
        """A picture of this size, [3, height, width], without any memory of its own."""
        return np.broadcast_to(np.uint8(0), (3, size.height, size.width))


def _arrangement(image_processor: Any, size: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of tiles that the image processor's own code makes of a picture; 0 of a single tile.

    Args:
        size: width and height of the picture, px.
    """
    kind, shapes, side = type(image_processor), cast(Any, _Shapes()), image_processor.max_image_size["longest_edge"]
    image = np.broadcast_to(np.uint8(0), (3, size[1], size[0]))
    if image_processor.do_resize:
        wanted, longest = image_processor.size, size_entry(image_processor.size, "longest_edge")
        if longest is not None:
            height, width = sys.modules[kind.__module__].get_resize_output_image_size(image, longest)
            wanted = SizeDict(height=height, width=width)
        image = shapes.resize(image, wanted)
    image = kind.resize_for_vision_encoder(shapes, image, side)
    _, rows, cols = kind.split_images(shapes, image, image_processor.max_image_size)
    return rows, cols
