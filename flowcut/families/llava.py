"""LLaVA-1.5 and its kin: a CLIP tower whose patches go through a projector to the place of `<image>` in the prompt."""

from __future__ import annotations

from flowcut.criteria.stages import STAGES, Stage
from flowcut.families.clip_llava import ClipLlava
from flowcut.published import PUBLISHED


class Llava(ClipLlava):
    """The family of `LlavaForConditionalGeneration`."""

    name = "LLaVA-1.5"
    model_class = "LlavaForConditionalGeneration"
    description = "LLaVA-1.5 and models of its build (LlavaForConditionalGeneration with a CLIP vision tower)"
    published = PUBLISHED["llava"]
    stages: tuple[Stage, ...] = tuple(STAGES.values())
    hands_cls = True
