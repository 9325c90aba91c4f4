"""The families by their model_type, and the refusal of everything else."""

from __future__ import annotations

from typing import Any

from flowcut.errors import ModelNotLoaded
from flowcut.families.deepseek_vl import DeepseekVL, DeepseekVLHybrid
from flowcut.families.family import Family
from flowcut.families.gemma3 import Gemma3
from flowcut.families.internvl import InternVL
from flowcut.families.llava import Llava
from flowcut.families.llava_next import LlavaNext
from flowcut.families.llava_next_video import LlavaNextVideo
from flowcut.families.llava_onevision import LlavaOnevision
from flowcut.families.paligemma import PaliGemma
from flowcut.families.qwen3_vl import Qwen3VL, Qwen35
from flowcut.families.qwen_vl import QwenVL
from flowcut.families.smolvlm import Idefics3, SmolVLM
from flowcut.families.video_llava import VideoLlava

FAMILIES: dict[str, Family] = {
    "llava": Llava(),
    "llava_next": LlavaNext(),
    "llava_next_video": LlavaNextVideo(),
    "video_llava": VideoLlava(),
    "llava_onevision": LlavaOnevision(),
    "qwen2_vl": QwenVL("qwen2_vl", "Qwen2-VL", "Qwen2VLForConditionalGeneration", "Qwen2VLProcessor"),
    "qwen2_5_vl": QwenVL("qwen2_5_vl", "Qwen2.5-VL", "Qwen2_5_VLForConditionalGeneration", "Qwen2_5_VLProcessor"),
    "qwen3_vl": Qwen3VL("qwen3_vl", "Qwen3-VL", "Qwen3VLForConditionalGeneration", "Qwen3VLProcessor"),
    "qwen3_5": Qwen35("qwen3_5", "Qwen3.5", "Qwen3_5ForConditionalGeneration", "Qwen3VLProcessor"),
    "deepseek_vl": DeepseekVL(),
    "deepseek_vl_hybrid": DeepseekVLHybrid(),
    "gemma3": Gemma3(),
    "paligemma": PaliGemma(),
    "internvl": InternVL(),
    "smolvlm": SmolVLM(),
    "idefics3": Idefics3(),
}
"""By transformers' model_type. A new family is one adapter and one line here."""


def family_of(config: Any) -> Family:
    """The family that a model's configuration belongs to.

    Raises:
        ModelNotLoaded: (a ValueError) it belongs to none; the sentence names what was got and what is supported.
    """
    model_type = getattr(config, "model_type", None)
    tower_type = getattr(getattr(config, "vision_config", None), "model_type", None)
    family = FAMILIES.get(str(model_type))
    if family is not None and tower_type in family.towers:
        return family
    raise unsupported(model_type, tower_type)


def names_of_video_families() -> str:
    """The families that take videos, for a sentence: `A, B or C`."""
    names = [family.name for family in FAMILIES.values() if family.frames]
    return f"{', '.join(names[:-1])} or {names[-1]}"


def unsupported(model_type: str | None, tower_type: str | None = None) -> ModelNotLoaded:
    """The refusal of a model by its name, with the list of what is supported."""
    got = f"a {model_type!r} model" + (f" with a {tower_type!r} vision tower" if tower_type else "")
    supported = "; ".join(family.description for family in FAMILIES.values())
    return ModelNotLoaded(f"This is {got}, which is not supported: choose {supported}.")
