"""The families by their model_type, and the refusal of everything else."""

from __future__ import annotations

from typing import Any

from flowcut.errors import FlowCutError, ModelNotLoaded
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


OTHERS = "or another image-text-to-text model of transformers whose pictures are tokens of the prompt"


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
    return _generic(config, model_type, tower_type)


def _generic(config: Any, model_type: str | None, tower_type: str | None) -> Family:
    """The family of a model without an adapter of its own, if it can be cut behind the projector."""
    from flowcut.families.generic import Generic  # the classes of all models come with it

    try:
        return Generic(config)
    except FlowCutError as error:
        raise unsupported(model_type, tower_type, reason=str(error)) from error


def names_of_video_families() -> str:
    """The families that take videos, for a sentence: `A, B or C`."""
    names = [family.name for family in FAMILIES.values() if family.frames]
    return f"{', '.join(names[:-1])} or {names[-1]}"


def unsupported(
    model_type: str | None, tower_type: str | None = None, reason: str = "", own_code: bool = False
) -> ModelNotLoaded:
    """The refusal of a model by its name, with why (if it is known) and the list of what is supported.

    Args:
        reason: a clause that says why, such as `its language model has no such tokens`.
        own_code: whether the checkpoint comes with code of its own.
    """
    got = f"a {model_type!r} model" + (f" with a {tower_type!r} vision tower" if tower_type else "")
    supported = "; ".join([*(family.description for family in FAMILIES.values()), OTHERS])
    why = f", since {reason}" if reason else ""
    never = ", and the code that comes with it is never run" if own_code else ""
    return ModelNotLoaded(f"This is {got}, which is not supported{why}{never}: choose {supported}.")
