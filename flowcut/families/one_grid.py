"""Models that see a picture as one square grid of patches and read each patch as one token, whatever their tower is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from flowcut.cut import CutConfig
from flowcut.encoder.recording import Recording
from flowcut.families.family import SEPARATOR, EncodedMedium, MediaKind
from flowcut.families.llava_build import LlavaBuild


class OneGrid(LlavaBuild):
    """What these families share: pictures go through tower and projector in one batch."""

    def cls_tokens(self, model: PreTrainedModel) -> int:
        """CLS tokens among a picture's visual tokens, before its patches."""
        return 0

    def n_patches(self, model: PreTrainedModel) -> int:
        """Patches that a picture has before any cut."""
        vision = model.config.vision_config
        return int(vision.image_size // vision.patch_size) ** 2

    def placeholders(self, model: PreTrainedModel, kind: MediaKind, given: Mapping[str, Any]) -> list[int]:
        """The same for every picture."""
        return [self.n_patches(model) + self.cls_tokens(model)] * len(given[kind.inputs[0]])

    def encode(
        self,
        model: PreTrainedModel,
        recording: Recording,
        kind: MediaKind,
        given: Mapping[str, Any],
        cut: CutConfig | None,
    ) -> list[EncodedMedium]:
        """Every picture through tower and projector in one batch; a CLS token, where it is read, is a separator.

        Where the cut hands CLS over among its tokens, these fill the first placeholders: they are no longer in the
        order of the picture.
        """
        if recording.plan.cls_goes_on and cut is not None and cut.tokens < self.n_patches(model):
            features = self.image_features(model, kind, given, vision_feature_select_strategy="full")
            return one_token_each(features, recording.kept_patch_ids, 1, in_picture_order=False)
        features = self.image_features(model, kind, given)
        return one_token_each(features, recording.kept_patch_ids, self.cls_tokens(model))

    def image_features(
        self, model: PreTrainedModel, kind: MediaKind, given: Mapping[str, Any], **options: Any
    ) -> Tensor | list[Tensor]:
        """Per picture [n, width], what the stock code hands to the language model."""
        parts: Any = model.model
        known = {name: given[name] for name in ("interpolate_pos_encoding",) if name in given}  # scaled down
        pixels = given[kind.inputs[0]]
        features: Tensor | list[Tensor] = parts.get_image_features(
            pixel_values=pixels, return_dict=True, **known, **options
        ).pooler_output
        return features


def one_token_each(
    features: Tensor | list[Tensor], kept: Tensor, cls: int, in_picture_order: bool = True
) -> list[EncodedMedium]:
    """Pictures whose tokens are `cls` separators and then one for each patch kept.

    Args:
        features: per picture [cls + T, width].
        kept: int64 [B, T], the patches.
        in_picture_order: whether each token fills the placeholder of its patch, not the next one.
    """
    patches = torch.nn.functional.pad(kept, (cls, 0), value=SEPARATOR)
    rows = torch.arange(len(kept), device=kept.device)[:, None].expand_as(patches)
    sources = torch.stack([rows.where(patches != SEPARATOR, SEPARATOR), patches], dim=-1)
    next_ones = torch.arange(patches.shape[1], device=kept.device).expand_as(patches)
    places = patches + cls if in_picture_order else next_ones
    return [EncodedMedium.of_patches(*one) for one in zip(features, places, sources, strict=True)]
