"""Pruning with a stock model and processor in hand: pictures encoded and cut first, then placeholders to match."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any

import torch
from torch import Tensor
from transformers import BatchFeature, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

from flowcut.errors import FlowCutError
from flowcut.families import family_of
from flowcut.prompts import OwnPrompts, drop_tokens
from flowcut.record import FlowRecord
from flowcut.schedule import CutConfig
from flowcut.vision import record as record_encoder


def prune(hf_model: PreTrainedModel, cut: CutConfig | None = None, *, record: bool = True) -> Session:
    """Prune the pictures of a stock model, for the length of a `with`; `generate` stays the stock one.

    ```python
    with flowcut.prune(hf_model, cut=flowcut.FlowCut(tokens=64)) as session:
        inputs = session.prepare(processor(images=image, text=prompt, return_tensors="pt"))
        ids = hf_model.generate(**inputs)
    session.record
    ```

    Args:
        hf_model: a model of one of the families in `flowcut/families`, such as `LlavaForConditionalGeneration` with a
            CLIP tower or `Qwen2_5_VLForConditionalGeneration`.
        cut: which patches to keep; None records only.
        record: False prunes only, and pays for nothing else.

    Raises:
        FlowCutError: (a ValueError) the model is of a family that is not supported, or the cut cannot be done.
    """
    return Session(hf_model, cut, record)


class Session:
    """A `with` in which pictures handed to `prepare` are encoded, recorded and pruned."""

    def __init__(self, hf_model: PreTrainedModel, cut: CutConfig | None, record: bool) -> None:
        self.model = hf_model
        self.family = family_of(hf_model.config)
        facts = {"model_id": hf_model.name_or_path or None, "family": self.family.name}
        tower = self.family.vision_tower(hf_model)
        layer = self.family.feature_layer(hf_model)
        self.recording = record_encoder(tower, cut, layer, flows=record, facts=facts)

    def __enter__(self) -> Session:
        self.recording.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.recording.__exit__(kind, error, trace)

    @property
    def record(self) -> FlowRecord:
        """What the last `prepare` showed; with several pictures, they are its batch, in the order of the prompt."""
        return self.recording.record

    def prepare(self, inputs: Mapping[str, Any]) -> BatchFeature:
        """Encode the pictures, cut the placeholders to match, and put all on the model's device.

        Prepare anew before each `generate` with beams or several sequences: transformers repeats the picture's
        features in place for them. Inputs without a picture come back as they are.

        Args:
            inputs: what the processor gave: `input_ids` [batch, length], `pixel_values` [pictures, 3, H, W], ...

        Raises:
            FlowCutError: placeholders and pictures do not match, before or after the cut.
        """
        prepared = {name: self._to_device(value) for name, value in inputs.items()}
        if isinstance(self.family, OwnPrompts):
            return self.family.prepare(self.model, self.recording, prepared)
        pixel_values = prepared.pop("pixel_values", None)
        if pixel_values is None:
            return BatchFeature(prepared)
        before = self.family.n_patches(self.model) + self.family.cls_tokens(self.model)
        pictures = len(pixel_values)
        self._check_placeholders(prepared["input_ids"], pictures, before)
        model: Any = self.model
        with torch.no_grad():
            features = model.get_image_features(pixel_values=pixel_values, return_dict=True).pooler_output
        prepared = self._cut_placeholders(prepared, pictures, before, after=len(features[0]))
        prepared["mm_encoder_outputs"] = {"image": BaseModelOutputWithPooling(pooler_output=features)}
        return BatchFeature(prepared)

    def _to_device(self, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        value = value.to(self.model.device)
        # Pixels take the model's dtype; a list of numbers, such as seconds, would lose digits by it.
        return value.to(self.model.dtype) if value.is_floating_point() and value.ndim > 1 else value

    def _check_placeholders(self, input_ids: Tensor, pictures: int, per_picture: int) -> None:
        found = int((input_ids == self.family.image_token_id(self.model)).sum())
        if found != pictures * per_picture:
            raise FlowCutError(
                f"The prompt holds {found} image placeholders, and {pictures} picture(s) of {per_picture} need "
                f"{pictures * per_picture}: write <image> once per picture and let the model's own processor expand it."
            )

    def _cut_placeholders(self, inputs: dict[str, Any], pictures: int, before: int, after: int) -> dict[str, Any]:
        """Of each picture's run of `before` placeholders keep the first `after`: features fill them in order."""
        if after == before:
            return inputs
        input_ids: Tensor = inputs["input_ids"]
        is_image = input_ids == self.family.image_token_id(self.model)
        place_in_picture = (is_image.flatten().cumsum(0).view_as(input_ids) - 1) % before
        stays = ~is_image | (place_in_picture < after)
        return drop_tokens(self.model, inputs, stays)
