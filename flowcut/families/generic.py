"""Any other image-text-to-text model of transformers whose pictures are tokens of the prompt: cut behind the projector.

Nothing is known of its vision encoder, so nothing of it is recorded, and only criteria that need no more than projected
tokens can choose. All visual tokens of a prompt share one budget: where one picture's tokens end is not known either.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING, MODEL_MAPPING, PreTrainedModel

from flowcut.criteria.stages import DECODER, PROJECTOR, Stage
from flowcut.cut import CutConfig
from flowcut.encoder.unrecorded import Unrecorded, counted_operations, token_grid
from flowcut.errors import FlowCutError
from flowcut.families.chat import in_template
from flowcut.families.family import IMAGE, EncodedMedium, Family, MediaKind
from flowcut.records.vision import Geometry

OWN_CHOICES = ("vision_feature_layer", "vision_feature_select_strategy", "output_hidden_states", "return_dict")
"""Parameters of `get_image_features` that no processor gives."""
PLAIN = ("last_hidden_state", "pooler_output", "hidden_states", "attentions")
"""What every encoder's output may hold."""


NO_MATCH = (
    "The image placeholders of the prompts do not match their pictures: write each picture's place once and let the "
    "model's own processor expand it."
)


class Generic(Family):
    """The family of one model class that has no adapter of its own."""

    towers: tuple[str, ...] = ()
    unread: str
    counts_by_picture = True
    stages: tuple[Stage, ...] = (PROJECTOR, DECODER)

    def __init__(self, config: Any) -> None:
        """
        Raises:
            FlowCutError: this class of models cannot be cut in this way; a clause that says why, after "since".
        """
        stock = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING.get(type(config), None)
        base = MODEL_MAPPING.get(type(config), None)
        check_class(config, stock, base)
        self.model_class = stock.__name__
        self.name = f"{self.model_class.removesuffix('ForConditionalGeneration')} (generic)"
        self.description = f"{self.name} ({self.model_class})"
        self.unread = (
            f"The vision encoder of {self.model_class} is not read: there is no record of it, and what is called a "
            "patch is a token behind the projector."
        )
        self.positions_are_places = hasattr(base, "get_rope_index")
        names = [name for name in inspect.signature(base.get_image_features).parameters if name not in OWN_CHOICES]
        pixels = tuple(name for name in names if name not in ("self", "kwargs"))
        self.media = (MediaKind(IMAGE.name, pixels, beside=("input_ids",)),)
        self._made: Any = None
        """What `get_image_features` gave last: its container says in what form the model takes features."""

    def vision_tower(self, model: PreTrainedModel, kind: MediaKind = IMAGE) -> nn.Module:
        """The vision encoder, where the model names it; else a module that never runs."""
        named = ("vision_tower", "vision_model", "visual", "vision_embed_tokens")
        parts = [getattr(place, name, None) for place in (model.base_model, model) for name in named]
        return next((part for part in parts if isinstance(part, nn.Module)), nn.Identity())

    def projector(self, model: PreTrainedModel) -> nn.Module:
        """It is not known apart from the encoder: a module that never runs."""
        return nn.Identity()

    def language_model(self, model: PreTrainedModel) -> nn.Module:
        """The decoder, without its head."""
        return cast(nn.Module, cast(Any, model).get_decoder())

    def feature_layer(self, model: PreTrainedModel) -> int | list[int]:
        """It is not known: the last."""
        return -1

    def placeholder_id(self, model: PreTrainedModel, kind: MediaKind = IMAGE) -> int:
        """The id in `input_ids` of the placeholder of a visual token."""
        return _image_token(model.config)

    def n_patches(self, model: PreTrainedModel) -> int:
        """The most tokens that a picture could be: the prompt must fit."""
        return int(getattr(model.config.text_config, "max_position_embeddings", None) or 2**20)

    def prompt(self, processor: Any, question: str, system: str | None, kind: MediaKind = IMAGE) -> str:
        """The prompt by the model's own chat template; else the picture's place and the question."""
        place = str(getattr(processor, "image_token", None) or getattr(processor.tokenizer, "image_token", "<image>"))
        text = in_template(processor, kind.name, place, question, system)
        return f"{system + ' ' if system else ''}{place}\n{question}" if text is None else text

    def geometries(self, model: PreTrainedModel, image_processor: Any, size: tuple[int, int]) -> tuple[Geometry, ...]:
        """The whole picture in one piece, where the processor neither crops nor pads it; else none."""
        parts_only = ["do_center_crop", "crop_to_patches", "do_image_splitting"]
        if "image_sizes" not in self.media[0].inputs:  # which say how much of the input is padding
            parts_only.append("do_pad")
        if any(getattr(image_processor, name, None) for name in parts_only):
            return ()
        width, height = size
        whole: dict[str, Any] = {
            "crop_left": 0,
            "crop_top": 0,
            "input_width": width,
            "input_height": height,
            "patch": 1,
        }
        grid: dict[str, Any] = {
            "resized_width": width,
            "resized_height": height,
            "grid_rows": height,
            "grid_cols": width,
        }
        return (Geometry(original_width=width, original_height=height, **whole, **grid),)

    def frame_geometries(
        self, model: PreTrainedModel, video_processor: Any, size: tuple[int, int], frames: int
    ) -> tuple[Geometry, ...]:
        """It takes no videos."""
        raise FlowCutError(f"{self.name} takes no videos: hand over a picture.")

    def placeholders(self, model: PreTrainedModel, kind: MediaKind, given: Mapping[str, Any]) -> list[int]:
        """The visual tokens of each prompt that has any."""
        counts = (given["input_ids"] == self.placeholder_id(model)).sum(dim=1).tolist()
        return [count for count in counts if count]

    def encode(
        self, model: PreTrainedModel, recording: Any, kind: MediaKind, given: Mapping[str, Any], cut: CutConfig | None
    ) -> list[EncodedMedium]:
        """Every picture through the model's own `get_image_features`, uncut: the tokens of each prompt as one medium.

        Raises:
            FlowCutError: prompts and pictures do not match, or the model adds features to deeper layers besides.
        """
        assert isinstance(recording, Unrecorded)
        counts = self.placeholders(model, kind, given)
        own = {name: given[name] for name in kind.inputs if name in given}
        with counted_operations(model) as operations:
            self._made = cast(Any, model).get_image_features(**own, return_dict=True)
        features = _flat(self._made.pooler_output)
        self._check(features, counts)
        one = token_grid(model.config, own, len(features)) if len(counts) == 1 else None
        recording.passed(counts, one, sum(operations))
        return [_medium(part, row) for row, part in enumerate(features.split(counts))]

    def handed_over(self, kind: MediaKind, media: list[EncodedMedium]) -> tuple[Any, dict[str, Any]]:
        """The features in the container that the model's own encoder gives, and what else its output holds.

        Of a tensor, each token is an entry of its own: transformers finds the prompts' borders by counting entries.
        """
        features = [medium.features for medium in media]
        made = self._made.pooler_output
        extras = {name: value for name, value in self._made.items() if name not in PLAIN}
        if isinstance(made, Tensor):
            return torch.cat(features)[:, None], extras
        return (tuple(features) if isinstance(made, tuple) else features), extras

    def positions(self, model: PreTrainedModel, inputs: Mapping[str, Any]) -> Tensor | None:
        """int64 [axes, batch, length], by the model's own `get_rope_index`; None where tokens count themselves."""
        if not self.positions_are_places:
            return None
        find: Any = cast(Any, model).model.get_rope_index
        names = inspect.signature(find).parameters
        known = {name: inputs[name] for name in names if inputs.get(name) is not None}
        if "mm_token_type_ids" in names and "mm_token_type_ids" not in known:
            known["mm_token_type_ids"] = (inputs["input_ids"] == self.placeholder_id(model)).int()
        try:
            positions: Tensor = find(**known)[0]
        except (IndexError, RuntimeError, StopIteration, ValueError) as error:  # it counts placeholders on its way
            raise FlowCutError(NO_MATCH) from error
        return positions

    def notes(self, cut: CutConfig | None) -> tuple[str, ...]:
        """What is missing, and what a budget is of."""
        if cut is None:
            return (self.unread,)
        shared = (
            "The budget is of all visual tokens of a prompt together: where one picture's tokens end, and which of "
            "them only separate its parts, is not known of this model."
        )
        return (self.unread, shared)

    def _check(self, features: Tensor, counts: list[int]) -> None:
        if sum(counts) != len(features):
            told = f"{NO_MATCH} The prompts hold {sum(counts)} placeholders, the pictures are {len(features)} tokens."
            raise FlowCutError(told)
        for name, value in self._made.items():
            follows = isinstance(value, Tensor) and math.prod(value.shape[:-1]) == len(features)
            if name not in PLAIN and value is not None and (follows or not isinstance(value, Tensor)):
                raise FlowCutError(
                    f"{self.model_class} hands {name} of each visual token to its language model besides, which is not "
                    "cut here: choose a model of another family."
                )


def check_class(config: Any, stock: Any, base: Any) -> None:
    """
    Raises:
        FlowCutError: models of this class cannot be cut behind the projector; a clause that says why.
    """
    text = getattr(config, "text_config", None)
    if stock is None:
        raise FlowCutError("transformers has no class of it that answers questions about pictures")
    if getattr(text, "cross_attention_layers", None):
        raise FlowCutError("its language model reads pictures by cross attention, and not as tokens of the prompt")
    if getattr(config, "is_encoder_decoder", False) or text is None:
        raise FlowCutError("its language model is no decoder that reads pictures as tokens of the prompt")
    if _image_token(config) < 0:
        raise FlowCutError("its configuration names no token that stands for a picture's tokens")
    if not hasattr(base, "get_image_features") or not hasattr(stock, "get_image_features"):
        raise FlowCutError("it has no get_image_features, which gives the tokens behind the projector")
    if "mm_encoder_outputs" not in inspect.signature(stock.forward).parameters:
        raise FlowCutError("its forward takes no encoded pictures (mm_encoder_outputs)")


def _image_token(config: Any) -> int:
    """The placeholder's id; -1 where the configuration names none."""
    named = [getattr(config, name, None) for name in ("image_token_id", "image_token_index")]
    return next((int(one) for one in named if one is not None), -1)


def _flat(made: Any) -> Tensor:
    """[tokens, width], whatever the container."""
    parts = [made] if isinstance(made, Tensor) else list(made)
    return torch.cat([part.reshape(-1, part.shape[-1]) for part in parts])


def _medium(features: Tensor, row: int) -> EncodedMedium:
    ids = torch.arange(len(features), device=features.device)
    return EncodedMedium.of_patches(features, ids, torch.stack([torch.full_like(ids, row), ids], dim=-1))
