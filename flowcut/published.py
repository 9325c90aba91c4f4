"""Published models by the family they belong to: ids on the hub that people can try. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass

PUBLISHED: dict[str, tuple[str, ...]] = {
    "llava": (
        "llava-hf/llava-1.5-7b-hf",
        "xtuner/llava-phi-3-mini-hf",
        "Intel/llava-gemma-2b",
        "llava-hf/llava-interleave-qwen-0.5b-hf",
    ),
    "llava_next": ("llava-hf/llava-v1.6-mistral-7b-hf", "llava-hf/llava-v1.6-vicuna-7b-hf"),
    "qwen2_vl": ("Qwen/Qwen2-VL-2B-Instruct",),
    "qwen2_5_vl": ("Qwen/Qwen2.5-VL-3B-Instruct",),
    "qwen3_vl": ("Qwen/Qwen3-VL-2B-Instruct", "Qwen/Qwen3-VL-4B-Instruct", "Qwen/Qwen3-VL-8B-Instruct"),
    "qwen3_5": ("Qwen/Qwen3.5-0.8B", "Qwen/Qwen3.5-2B", "Qwen/Qwen3.5-4B", "Qwen/Qwen3.5-9B"),
    "video_llava": ("LanguageBind/Video-LLaVA-7B-hf",),
    "llava_next_video": ("llava-hf/LLaVA-NeXT-Video-7B-hf",),
    "llava_onevision": ("llava-hf/llava-onevision-qwen2-0.5b-ov-hf",),
    "deepseek_vl": ("deepseek-community/deepseek-vl-1.3b-chat",),
    "deepseek_vl_hybrid": ("deepseek-community/deepseek-vl-7b-chat",),
    "gemma3": ("google/gemma-3-4b-it", "google/gemma-3-12b-it", "google/gemma-3-27b-it"),
    "paligemma": ("google/paligemma2-3b-mix-224", "google/paligemma2-3b-mix-448", "google/paligemma-3b-mix-224"),
    "internvl": (
        "OpenGVLab/InternVL3-1B-hf",
        "OpenGVLab/InternVL3_5-1B-HF",
        "OpenGVLab/InternVL3_5-2B-HF",
        "OpenGVLab/InternVL3_5-4B-HF",
        "OpenGVLab/InternVL3_5-8B-HF",
    ),
    "smolvlm": (
        "HuggingFaceTB/SmolVLM2-256M-Video-Instruct",
        "HuggingFaceTB/SmolVLM2-500M-Video-Instruct",
        "HuggingFaceTB/SmolVLM2-2.2B-Instruct",
    ),
    "idefics3": ("HuggingFaceTB/SmolVLM-256M-Instruct", "HuggingFaceTB/SmolVLM-500M-Instruct"),
}
"""By transformers' model_type, as `flowcut.families.FAMILIES`; each family has its own ids as `published`."""
MODEL_TYPES: dict[str, str] = {name: model_type for model_type, names in PUBLISHED.items() for name in names}
"""The family of each: what a model takes is known before gigabytes of it are fetched."""


def published_of(*model_types: str) -> tuple[str, ...]:
    """The published models of these families, in this order."""
    return tuple(name for model_type in model_types for name in PUBLISHED[model_type])


@dataclass(frozen=True)
class Size:
    """What a published model takes."""

    download: int
    """Bytes of the files that are fetched."""
    parameters: int
    """Numbers in its weights."""
    gated: bool = False
    """Whether its terms must be accepted on the hub, by someone who is logged in, before it can be fetched."""


@dataclass(frozen=True)
class Published:
    """One published model."""

    name: str
    """Its id on the hub."""
    model_type: str
    """Its family, as `PUBLISHED` has it."""
    size: Size | None
    """None: not in `SIZES`; the hub tells it when the model is fetched."""


GB, BILLION = 10**9, 10**9


def _size(gigabytes: float, billions: float, gated: bool = False) -> Size:
    return Size(round(gigabytes * GB), round(billions * BILLION), gated)


SIZES: dict[str, Size] = {
    "llava-hf/llava-1.5-7b-hf": _size(14.1, 7.06),
    "xtuner/llava-phi-3-mini-hf": _size(8.3, 4.14),
    "Intel/llava-gemma-2b": _size(5.7, 2.82),
    "llava-hf/llava-interleave-qwen-0.5b-hf": _size(1.76, 0.88),
    "llava-hf/llava-v1.6-mistral-7b-hf": _size(15.1, 7.57),
    "llava-hf/llava-v1.6-vicuna-7b-hf": _size(14.1, 7.06),
    "Qwen/Qwen2-VL-2B-Instruct": _size(4.43, 2.21),
    "Qwen/Qwen2.5-VL-3B-Instruct": _size(7.52, 3.75),
    "LanguageBind/Video-LLaVA-7B-hf": _size(14.7, 7.37),
    "llava-hf/LLaVA-NeXT-Video-7B-hf": _size(14.1, 7.06),
    "llava-hf/llava-onevision-qwen2-0.5b-ov-hf": _size(1.80, 0.89),
    "OpenGVLab/InternVL3-1B-hf": _size(1.88, 0.94),
    "OpenGVLab/InternVL3-2B-hf": _size(4.18, 2.09),
    "OpenGVLab/InternVL3-8B-hf": _size(15.9, 7.94),
    "OpenGVLab/InternVL3_5-1B-HF": _size(2.12, 1.06),
    "OpenGVLab/InternVL3_5-2B-HF": _size(4.7, 2.35),
    "OpenGVLab/InternVL3_5-4B-HF": _size(9.5, 4.73),
    "OpenGVLab/InternVL3_5-8B-HF": _size(17.1, 8.53),
    "HuggingFaceTB/SmolVLM2-256M-Video-Instruct": _size(1.03, 0.256),
    "HuggingFaceTB/SmolVLM2-500M-Video-Instruct": _size(2.03, 0.507),
    "HuggingFaceTB/SmolVLM2-2.2B-Instruct": _size(8.99, 2.25),
    "HuggingFaceTB/SmolVLM-256M-Instruct": _size(0.52, 0.256),
    "HuggingFaceTB/SmolVLM-500M-Instruct": _size(1.02, 0.507),
    "Qwen/Qwen3-VL-2B-Instruct": _size(4.27, 2.13),
    "Qwen/Qwen3-VL-4B-Instruct": _size(8.9, 4.44),
    "Qwen/Qwen3-VL-8B-Instruct": _size(17.5, 8.77),
    "Qwen/Qwen3.5-0.8B": _size(1.8, 0.87),
    "Qwen/Qwen3.5-2B": _size(4.6, 2.27),
    "Qwen/Qwen3.5-4B": _size(9.3, 4.66),
    "Qwen/Qwen3.5-9B": _size(19.3, 9.65),
    "deepseek-community/deepseek-vl-1.3b-chat": _size(4.0, 1.98),
    "deepseek-community/deepseek-vl-7b-chat": _size(14.7, 7.34),
    "google/gemma-3-4b-it": _size(8.6, 4.3, gated=True),
    "google/gemma-3-12b-it": _size(24.4, 12.2, gated=True),
    "google/gemma-3-27b-it": _size(54.9, 27.4, gated=True),
    "google/paligemma-3b-mix-224": _size(11.7, 2.92, gated=True),
    "google/paligemma2-3b-mix-224": _size(6.1, 3.03, gated=True),
    "google/paligemma2-3b-mix-448": _size(6.1, 3.03, gated=True),
}
"""What they take: rounded, of some by their parameters and dtype, so to be read as "about". Of a model that is being
fetched the hub's own figures are shown."""
FAMILY_NAMES: dict[str, str] = {
    "llava": "LLaVA-1.5",
    "llava_next": "LLaVA-NeXT",
    "llava_next_video": "LLaVA-NeXT-Video",
    "video_llava": "Video-LLaVA",
    "llava_onevision": "LLaVA-OneVision",
    "qwen2_vl": "Qwen2-VL",
    "qwen2_5_vl": "Qwen2.5-VL",
    "internvl": "InternVL",
    "smolvlm": "SmolVLM2",
    "idefics3": "Idefics3",
    "qwen3_vl": "Qwen3-VL",
    "qwen3_5": "Qwen3.5",
    "deepseek_vl": "DeepSeek-VL",
    "deepseek_vl_hybrid": "DeepSeek-VL hybrid",
    "gemma3": "Gemma 3",
    "paligemma": "PaliGemma",
}
"""As `flowcut.families.FAMILIES` calls them, which needs torch; one that is not here is called by its model_type."""


def published_models() -> tuple[Published, ...]:
    """Every published model, family by family; those of two families stand with the first."""
    return tuple(
        Published(name, MODEL_TYPES[name], SIZES.get(name)) for name in dict.fromkeys(published_of(*PUBLISHED))
    )
