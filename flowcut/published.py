"""Published models by the family they belong to: ids on the hub that people can try. Needs no torch."""

from __future__ import annotations

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
