"""Models built like LLaVA around CLIP towers: a CLS token, and as many patches in every picture or tile."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedModel

from flowcut.families.one_grid import OneGrid


class ClipLlava(OneGrid):
    """What families with CLIP towers share: a CLS token, which few of them read."""

    towers: tuple[str, ...] = ("clip_vision_model",)

    def cls_tokens(self, model: PreTrainedModel) -> int:
        """CLS tokens among a picture's visual tokens: 0, or 1 where the model reads the full sequence."""
        return 0 if model.config.vision_feature_select_strategy == "default" else 1

    def complete_processor(self, processor: Any, model: PreTrainedModel) -> None:
        """Say to a processor what it needs to count placeholders; older checkpoints left it out of their files."""
        processor.patch_size = model.config.vision_config.patch_size
        processor.vision_feature_select_strategy = model.config.vision_feature_select_strategy
        processor.num_additional_image_tokens = 1  # CLIP's CLS
