"""Models built like LLaVA: the names of their parts, their prompts, and how a picture lies on a square input."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from flowcut.errors import FlowCutError
from flowcut.families.chat import in_template
from flowcut.families.family import IMAGE, Family, MediaKind
from flowcut.records.vision import Geometry


class LlavaBuild(Family):
    """What models of this build share: a vision tower, a projector, and a decoder inside `model.model`."""

    default_prompt = "USER: {picture}\n{question} ASSISTANT:"
    """Where neither processor nor tokenizer has a template."""
    template_options: Mapping[str, Any] = {}
    """What its template is told beside the messages."""

    def vision_tower(self, model: PreTrainedModel, kind: MediaKind = IMAGE) -> nn.Module:
        """The vision encoder inside the model, for this kind of media."""
        return self._part(model, "vision_tower")

    def projector(self, model: PreTrainedModel) -> nn.Module:
        """What turns patch features into the language model's tokens."""
        return self._part(model, "multi_modal_projector")

    def language_model(self, model: PreTrainedModel) -> nn.Module:
        """The decoder, without its head."""
        return self._part(model, "language_model")

    def feature_layer(self, model: PreTrainedModel) -> int | list[int]:
        """The hidden state (or states) that the projector reads, as in `hidden_states[...]`."""
        layer: int | list[int] = model.config.vision_feature_layer
        return layer

    def placeholder_id(self, model: PreTrainedModel, kind: MediaKind = IMAGE) -> int:
        """The id in `input_ids` of the placeholder of this kind of media."""
        return int(getattr(model.config, f"{kind.name}_token_id"))

    def prompt(self, processor: Any, question: str, system: str | None, kind: MediaKind = IMAGE) -> str:
        """The prompt as the processor takes it: its own template, else the tokenizer's, else the family's.

        Raises:
            InvalidQuestion: the template has no place for a system prompt.
        """
        picture = self.place_text(processor, kind)
        text = in_template(processor, kind.name, picture, question, system, self.template_options)
        if text is None:
            text = self.default_prompt.format(picture=picture, question=question)
            text = f"{system} {text}" if system else text
        return text

    def geometries(self, model: PreTrainedModel, image_processor: Any, size: tuple[int, int]) -> tuple[Geometry, ...]:
        """One row per picture."""
        return (self.geometry(image_processor, size, model.config.vision_config.patch_size),)

    def frame_geometries(
        self, model: PreTrainedModel, video_processor: Any, size: tuple[int, int], frames: int
    ) -> tuple[Geometry, ...]:
        """Each frame is resized, and cropped where the video processor crops, as a picture of LLaVA-1.5 is."""
        geometry = self.geometry(video_processor, size, model.config.vision_config.patch_size)
        return tuple(replace(geometry, view=f"frame {frame + 1}") for frame in range(frames))

    def place_text(self, processor: Any, kind: MediaKind) -> str:
        """A medium's place in a prompt."""
        return str(getattr(processor, f"{kind.name}_token"))

    def geometry(self, image_processor: Any, size: tuple[int, int], patch: int) -> Geometry:
        """How the processor lays a picture of (width, height) on the encoder's square input: resize, then crop.

        Raises:
            FlowCutError: the processor resizes in a way that is not known here.
        """
        width, height = size
        resized_width, resized_height = _resized(image_processor, width, height)
        input_width, input_height = resized_width, resized_height
        if image_processor.do_center_crop:
            input_height, input_width = _height_width(image_processor.crop_size)
        if input_width != input_height:
            raise FlowCutError(f"The processor makes {input_width} x {input_height} inputs: CLIP towers need squares.")
        return Geometry(
            original_width=width,
            original_height=height,
            resized_width=resized_width,
            resized_height=resized_height,
            crop_left=_crop_start(resized_width, input_width),
            crop_top=_crop_start(resized_height, input_height),
            input_width=input_width,
            input_height=input_height,
            patch=patch,
            grid_rows=input_height // patch,
            grid_cols=input_width // patch,
        )

    def _part(self, model: PreTrainedModel, name: str) -> nn.Module:
        part: nn.Module = getattr(model.model, name)
        return part


def _resized(image_processor: Any, width: int, height: int) -> tuple[int, int]:
    """Width and height after the processor's resize; its rounding, in `get_resize_output_image_size`, is down."""
    if not image_processor.do_resize:
        return width, height
    shortest = size_entry(image_processor.size, "shortest_edge")
    if shortest is None:
        new_height, new_width = _height_width(image_processor.size)
        return new_width, new_height
    longest = int(shortest * max(width, height) / min(width, height))
    return (shortest, longest) if width <= height else (longest, shortest)


def _crop_start(resized: int, kept: int) -> int:
    """First pixel of a centre crop; where the picture is too small it is padded, more on the near side if odd."""
    return (resized - kept) // 2


def _height_width(size: Any) -> tuple[int, int]:
    height, width = size_entry(size, "height"), size_entry(size, "width")
    if height is None or width is None:
        raise FlowCutError(f"The processor's size is {size}: flowcut knows shortest_edge, or height and width.")
    return height, width


def size_entry(size: Any, name: str) -> int | None:
    """A side of a processor's `size`, by name; None where it has no such side."""
    value = size.get(name) if hasattr(size, "get") else getattr(size, name, None)
    return None if value is None else int(value)
