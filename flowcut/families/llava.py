"""LLaVA-1.5 and its kin: a tower whose patches go through a projector to the place of `<image>` in the prompt.

The tower is CLIP's, or SigLIP's, which has no CLS token. A configuration may ask to drop one all the same
(`vision_feature_select_strategy="default"`): then the stock model drops the first patch of every picture.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedModel

from flowcut.criteria.stages import STAGES, Stage
from flowcut.cut import CutConfig
from flowcut.encoder.recording import Recording
from flowcut.families.clip_llava import ClipLlava
from flowcut.families.family import EncodedMedium, MediaKind
from flowcut.families.one_grid import one_token_each
from flowcut.published import PUBLISHED

SIGLIP = "siglip_vision_model"


class Llava(ClipLlava):
    """The family of `LlavaForConditionalGeneration`."""

    name = "LLaVA-1.5"
    model_class = "LlavaForConditionalGeneration"
    description = "LLaVA-1.5 and models of its build (LlavaForConditionalGeneration with a CLIP or SigLIP vision tower)"
    towers: tuple[str, ...] = (*ClipLlava.towers, SIGLIP)
    published = PUBLISHED["llava"]
    stages: tuple[Stage, ...] = tuple(STAGES.values())
    hands_cls = True

    def cls_tokens(self, model: PreTrainedModel) -> int:
        """CLS tokens among a picture's visual tokens; -1 where the model drops a patch as if it were one."""
        return super().cls_tokens(model) - (1 if _is_siglip(model) else 0)

    def complete_processor(self, processor: Any, model: PreTrainedModel) -> None:
        """Say to a processor what it needs to count placeholders."""
        super().complete_processor(processor, model)
        processor.num_additional_image_tokens = 0 if _is_siglip(model) else 1

    def encode(
        self,
        model: PreTrainedModel,
        recording: Recording,
        kind: MediaKind,
        given: Mapping[str, Any],
        cut: CutConfig | None,
    ) -> list[EncodedMedium]:
        """As in `OneGrid`; where the model drops a patch, that patch and not the first of those kept.

        Such a patch may be one of those kept: then the language model reads one token less than the budget.
        """
        if self.cls_tokens(model) >= 0:
            return super().encode(model, recording, kind, given, cut)
        if cut is None or cut.tokens >= self.n_patches(model):
            features = self.image_features(model, kind, given)
            return _without_the_first(one_token_each(features, recording.kept_patch_ids[:, 1:], 0))
        features = self.image_features(model, kind, given, vision_feature_select_strategy="full")
        return _without_the_first(one_token_each(features, recording.kept_patch_ids, 0))

    def model_notes(self, model: PreTrainedModel) -> tuple[str, ...]:
        """What a reader of a record must know of this model."""
        if self.cls_tokens(model) >= 0:
            return ()
        return (
            "This model's vision_feature_select_strategy drops the first patch as if it were CLS, which SigLIP towers "
            "do not have: where a cut keeps that patch, the language model reads one token less than the budget.",
        )


def _is_siglip(model: PreTrainedModel) -> bool:
    return bool(model.config.vision_config.model_type == SIGLIP)


def _without_the_first(media: list[EncodedMedium]) -> list[EncodedMedium]:
    """Pictures without the patch 0, whose placeholders begin with that of patch 1."""
    read = [medium.places > 0 for medium in media]
    return [
        EncodedMedium(one.features[stays], one.places[stays] - 1, one.source_patches[stays], one.shares[stays])
        for one, stays in zip(media, read, strict=True)
    ]
