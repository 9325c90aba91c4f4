"""LLaVA-1.5 and its kin: a CLIP tower whose patches go through a projector to the place of `<image>` in the prompt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jinja2 import TemplateError
from torch import nn
from transformers import PreTrainedModel

from flowcut.errors import FlowCutError, InvalidQuestion
from flowcut.families.family import SEPARATOR, EncodedPicture
from flowcut.record import Geometry
from flowcut.schedule import CutConfig
from flowcut.vision import Recording


class Llava:
    """The family of `LlavaForConditionalGeneration`."""

    name = "LLaVA-1.5"
    model_class = "LlavaForConditionalGeneration"
    towers: tuple[str, ...] = ("clip_vision_model",)
    description = "LLaVA-1.5 and models of its build (LlavaForConditionalGeneration with a CLIP vision tower)"
    picture_inputs: tuple[str, ...] = ("pixel_values",)
    language_layer: int | None = None
    processor_class: str | None = None
    counts_by_picture = False
    stages: tuple[str, ...] = ("picture", "encoder", "projector", "decoder")
    merges_patches = False
    one_grid = True
    default_prompt = "USER: {picture}\n{question} ASSISTANT:"

    def vision_tower(self, model: PreTrainedModel) -> nn.Module:
        """The vision encoder inside the model."""
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

    def cls_tokens(self, model: PreTrainedModel) -> int:
        """CLS tokens among a picture's visual tokens: 0, or 1 where the model reads the full sequence."""
        return 0 if model.config.vision_feature_select_strategy == "default" else 1

    def image_token_id(self, model: PreTrainedModel) -> int:
        """The placeholder's id in `input_ids`."""
        return int(model.config.image_token_id)

    def n_patches(self, model: PreTrainedModel) -> int:
        """Patches that a picture has before any cut."""
        vision = model.config.vision_config
        return int(vision.image_size // vision.patch_size) ** 2

    def complete_processor(self, processor: Any, model: PreTrainedModel) -> None:
        """Tell a processor what it needs to count placeholders; older checkpoints left it out of their files."""
        processor.patch_size = model.config.vision_config.patch_size
        processor.vision_feature_select_strategy = model.config.vision_feature_select_strategy
        processor.num_additional_image_tokens = 1  # CLIP's CLS

    def prompt(self, processor: Any, question: str, system: str | None) -> str:
        """The prompt as the processor takes it: its own template, else the tokenizer's, else LLaVA-1.5's.

        Raises:
            InvalidQuestion: the template has no place for a system prompt.
        """
        picture = self.picture_text(processor)
        if getattr(processor, "chat_template", None):
            content = [{"type": "image"}, {"type": "text", "text": question}]
            text = self._fill_template(processor, content, system, wrap=True)
        elif getattr(processor.tokenizer, "chat_template", None):
            text = self._fill_template(processor.tokenizer, f"{picture}\n{question}", system, wrap=False)
        else:
            text = self.default_prompt.format(picture=picture, question=question)
            text = f"{system} {text}" if system else text
        if system is not None and system not in text:
            raise InvalidQuestion("This model's chat template has no place for a system prompt: leave it out.")
        return text

    def placeholders(self, model: PreTrainedModel, pictures: Mapping[str, Any]) -> list[int]:
        """The same for every picture."""
        return [self.n_patches(model) + self.cls_tokens(model)] * len(pictures["pixel_values"])

    def encode(
        self, model: PreTrainedModel, recording: Recording, pictures: Mapping[str, Any], cut: CutConfig | None
    ) -> list[EncodedPicture]:
        """Every picture through tower and projector in one batch; a CLS token, where it is read, is a separator."""
        parts: Any = model
        pixels = pictures["pixel_values"]
        other = {name: pictures[name] for name in ("interpolate_pos_encoding",) if name in pictures}  # scaled down
        features = parts.get_image_features(pixel_values=pixels, return_dict=True, **other).pooler_output
        kept = torch.nn.functional.pad(recording.kept_patch_ids, (self.cls_tokens(model), 0), value=SEPARATOR)
        rows = torch.arange(len(kept), device=kept.device)[:, None].expand_as(kept).where(kept != SEPARATOR, SEPARATOR)
        return [EncodedPicture(*pair) for pair in zip(features, torch.stack([rows, kept], dim=-1), strict=True)]

    def geometries(self, model: PreTrainedModel, image_processor: Any, size: tuple[int, int]) -> tuple[Geometry, ...]:
        """One row per picture."""
        return (self.geometry(image_processor, size, model.config.vision_config.patch_size),)

    def notes(self, cut: CutConfig | None) -> tuple[str, ...]:
        """Nothing but what the cut itself says."""
        return ()

    def picture_text(self, processor: Any) -> str:
        """A picture's place in a prompt."""
        return str(processor.image_token)

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

    def _fill_template(self, owner: Any, content: Any, system: str | None, wrap: bool) -> str:
        messages = [{"role": "user", "content": content}]
        if system is not None:
            told: Any = [{"type": "text", "text": system}] if wrap else system
            messages.insert(0, {"role": "system", "content": told})
        try:
            return str(owner.apply_chat_template(messages, add_generation_prompt=True, tokenize=False))
        except TemplateError as error:
            raise InvalidQuestion(f"This model's chat template refuses the prompt: {error}.") from error


def _resized(image_processor: Any, width: int, height: int) -> tuple[int, int]:
    """Width and height after the processor's resize; its rounding, in `get_resize_output_image_size`, is down."""
    if not image_processor.do_resize:
        return width, height
    shortest = _entry(image_processor.size, "shortest_edge")
    if shortest is None:
        new_height, new_width = _height_width(image_processor.size)
        return new_width, new_height
    longest = int(shortest * max(width, height) / min(width, height))
    return (shortest, longest) if width <= height else (longest, shortest)


def _crop_start(resized: int, kept: int) -> int:
    """First pixel of a centre crop; where the picture is too small it is padded, more on the near side if odd."""
    return (resized - kept) // 2


def _height_width(size: Any) -> tuple[int, int]:
    height, width = _entry(size, "height"), _entry(size, "width")
    if height is None or width is None:
        raise FlowCutError(f"The processor's size is {size}: flowcut knows shortest_edge, or height and width.")
    return height, width


def _entry(size: Any, name: str) -> int | None:
    value = size.get(name) if hasattr(size, "get") else getattr(size, name, None)
    return None if value is None else int(value)
