"""Models built like LLaVA around CLIP towers: a CLS token, and as many patches in every picture or tile."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from flowcut.cut import CutConfig
from flowcut.encoder.recording import Recording
from flowcut.families.family import SEPARATOR, EncodedMedium, MediaKind
from flowcut.families.llava_build import LlavaBuild


class ClipLlava(LlavaBuild):
    """What families with CLIP towers share: pictures go through tower and projector in one batch."""

    towers: tuple[str, ...] = ("clip_vision_model",)

    def cls_tokens(self, model: PreTrainedModel) -> int:
        """CLS tokens among a picture's visual tokens: 0, or 1 where the model reads the full sequence."""
        return 0 if model.config.vision_feature_select_strategy == "default" else 1

    def n_patches(self, model: PreTrainedModel) -> int:
        """Patches that a picture has before any cut."""
        vision = model.config.vision_config
        return int(vision.image_size // vision.patch_size) ** 2

    def complete_processor(self, processor: Any, model: PreTrainedModel) -> None:
        """Say to a processor what it needs to count placeholders; older checkpoints left it out of their files."""
        processor.patch_size = model.config.vision_config.patch_size
        processor.vision_feature_select_strategy = model.config.vision_feature_select_strategy
        processor.num_additional_image_tokens = 1  # CLIP's CLS

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
        parts: Any = model
        pixels = given[kind.inputs[0]]
        other = {name: given[name] for name in ("interpolate_pos_encoding",) if name in given}  # scaled down
        hands_cls = recording.plan.cls_goes_on and cut is not None and cut.tokens < self.n_patches(model)
        if hands_cls:
            other["vision_feature_select_strategy"] = "full"
        features = parts.get_image_features(pixel_values=pixels, return_dict=True, **other).pooler_output
        cls = 1 if hands_cls else self.cls_tokens(model)
        kept = nn.functional.pad(recording.kept_patch_ids, (cls, 0), value=SEPARATOR)
        places = torch.arange(kept.shape[1], device=kept.device).expand_as(kept) if hands_cls else kept + cls
        rows = torch.arange(len(kept), device=kept.device)[:, None].expand_as(kept).where(kept != SEPARATOR, SEPARATOR)
        sources = torch.stack([rows, kept], dim=-1)
        return [EncodedMedium.of_patches(*one) for one in zip(features, places, sources, strict=True)]
