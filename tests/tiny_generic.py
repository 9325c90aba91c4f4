"""Tiny models of classes without a family of their own, with random weights, and inputs as their processors give them.

Each has another form of features: AyaVision a tensor by tile, LFM2-VL a list by tile, GLM-4V and Mistral 3 a tuple by
picture, VipLLaVA a tensor by picture, Ovis 2 a tensor and features of its own tokens besides.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AyaVisionConfig,
    AyaVisionForConditionalGeneration,
    Glm4vConfig,
    Glm4vForConditionalGeneration,
    Lfm2VlConfig,
    Lfm2VlForConditionalGeneration,
    LlavaProcessor,
    Mistral3Config,
    Mistral3ForConditionalGeneration,
    Ovis2Config,
    Ovis2ForConditionalGeneration,
    PixtralProcessor,
    VipLlavaConfig,
    VipLlavaForConditionalGeneration,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.pixtral.image_processing_pil_pixtral import PixtralImageProcessorPil

from tests import tiny

IMAGE = 3
WORDS = 260
SIZES = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": WORDS, "max_position_embeddings": 1024, "bos_token_id": 1,
    "eos_token_id": 2, "pad_token_id": 0, "initializer_range": 0.2,
}  # fmt: skip
SIGLIP = {
    "model_type": "siglip_vision_model", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3,
    "num_attention_heads": 4, "image_size": 48, "patch_size": 6,
}  # fmt: skip
KINDS = ["aya", "lfm2", "glm4v", "mistral3", "vipllava", "ovis2"]


def model(kind: str, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    built = _BUILT[kind]().eval()
    built.generation_config.pad_token_id, built.generation_config.eos_token_id = 0, None
    built.generation_config.bos_token_id = None
    return built


def _aya() -> Any:
    text = {"model_type": "cohere2", "head_dim": 8, "sliding_window": 64, **SIZES}
    config = AyaVisionConfig(vision_config=SIGLIP, text_config=text, image_token_index=IMAGE)
    return AyaVisionForConditionalGeneration(config)


def _lfm2() -> Any:
    text = {
        "model_type": "lfm2", **SIZES, "conv_L_cache": 3, "block_dim": 32, "block_ff_dim": 48, "conv_dim": 32,
        "layer_types": ["conv", "full_attention", "conv", "full_attention"],
    }  # fmt: skip
    vision = {
        "model_type": "siglip2_vision_model", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3,
        "num_attention_heads": 4, "num_patches": 16, "patch_size": 6,
    }  # fmt: skip
    config = Lfm2VlConfig(vision_config=vision, text_config=text, image_token_id=IMAGE, projector_hidden_size=32)
    return Lfm2VlForConditionalGeneration(config)


def _glm4v() -> Any:
    text = {**SIZES, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]}}
    vision = {
        "depth": 3, "hidden_size": 32, "num_heads": 4, "out_hidden_size": 32, "intermediate_size": 48,
        "image_size": 56, "patch_size": 14,
    }  # fmt: skip
    ids = {"image_token_id": IMAGE, "video_token_id": 4, "image_start_token_id": 5, "image_end_token_id": 6}
    others = {"video_start_token_id": 7, "video_end_token_id": 8}
    return Glm4vForConditionalGeneration(Glm4vConfig(text_config=text, vision_config=vision, **ids, **others))


def _mistral3() -> Any:
    vision = {
        "model_type": "pixtral", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3,
        "num_attention_heads": 4, "image_size": 96, "patch_size": 6, "head_dim": 8,
    }  # fmt: skip
    text = {"model_type": "mistral", "head_dim": 8, **SIZES}
    config = Mistral3Config(vision_config=vision, text_config=text, image_token_index=IMAGE, spatial_merge_size=2)
    return Mistral3ForConditionalGeneration(config)


def _vipllava() -> Any:
    layers = {"vision_feature_layer": (-2, -3), "image_seq_length": tiny.N_PATCHES}
    text = {"model_type": "llama", **SIZES}
    config = VipLlavaConfig(
        vision_config=tiny.vision_config().to_dict(), text_config=text, image_token_index=IMAGE, **layers
    )
    return VipLlavaForConditionalGeneration(config)


def _ovis2() -> Any:
    vision = {
        "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4, "image_size": 48,
        "patch_size": 6, "vocab_size": 64, "hidden_stride": 2,
    }  # fmt: skip
    text = {"model_type": "qwen2", **SIZES}
    ids = {"image_token_id": IMAGE, "visual_indicator_token_ids": [4, 5, 6, 7, 8]}
    return Ovis2ForConditionalGeneration(
        Ovis2Config(vision_config=vision, text_config=text, vocab_size=WORDS, hidden_size=32, **ids)
    )


_BUILT = {
    "aya": _aya, "lfm2": _lfm2, "glm4v": _glm4v, "mistral3": _mistral3, "vipllava": _vipllava, "ovis2": _ovis2,
}  # fmt: skip


def pictures(kind: str, count: int, seed: int = 0) -> tuple[dict[str, torch.Tensor], list[int]]:
    """What the processor gives for so many pictures, and how many visual tokens each is."""
    made = torch.Generator().manual_seed(seed)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=made)

    if kind == "lfm2":
        patches, shape = noise(count, 16, 108), torch.tensor([[4, 4]] * count)
        return {
            "pixel_values": patches,
            "spatial_shapes": shape,
            "pixel_attention_mask": torch.ones(count, 16).long(),
        }, [4] * count
    if kind == "glm4v":
        grid = torch.tensor([[1, 4, 6]] * count)
        return {"pixel_values": noise(24 * count, 1176), "image_grid_thw": grid}, [6] * count
    if kind == "mistral3":
        return {"pixel_values": noise(count, 3, 48, 72), "image_sizes": torch.tensor([[48, 72]] * count)}, [24] * count
    tokens = {"aya": 16, "vipllava": tiny.N_PATCHES, "ovis2": 16}[kind]
    return {"pixel_values": noise(count, 3, 48, 48)}, [tokens] * count


def inputs(kind: str, per_prompt: Sequence[int] = (1,), seed: int = 0) -> dict[str, torch.Tensor]:
    """A batch of prompts with so many pictures each, padded on the left."""
    given, tokens = pictures(kind, sum(per_prompt), seed)
    left = list(tokens)
    rows = []
    for row, count in enumerate(per_prompt):
        ids = [1, 40 + row]
        for _ in range(count):
            ids += [IMAGE] * left.pop(0) + [60 + row]
        rows.append(ids + [70 + row] * (3 + row) + [80])
    longest = max(map(len, rows))
    padded = torch.tensor([[0] * (longest - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
    types = {"mm_token_type_ids": (padded == IMAGE).int()} if kind == "glm4v" else {}
    return {"input_ids": padded, "attention_mask": mask, **types, **given}


def alone(kind: str, batch: dict[str, torch.Tensor], per_prompt: Sequence[int], row: int) -> dict[str, torch.Tensor]:
    """One prompt of a batch by itself, without its padding."""
    first, count = sum(per_prompt[:row]), per_prompt[row]
    live = batch["attention_mask"][row].bool()
    size = 24 if kind == "glm4v" else 1
    own: dict[str, torch.Tensor] = {}
    for name, value in batch.items():
        if value.shape == batch["input_ids"].shape:
            own[name] = value[row][live][None]
        else:
            step = size if name == "pixel_values" else 1
            own[name] = value[first * step : (first + count) * step]
    return own


def vipllava_checkpoint(folder: Path) -> Path:
    """A whole checkpoint on disk, as `flowcut.load` takes it: one grid of tokens a picture, cropped from it."""
    model("vipllava").save_pretrained(folder)
    tiny.processor().save_pretrained(folder)
    return folder


def stretched_checkpoint(folder: Path) -> Path:
    """The same with a processor that stretches the whole picture to the square."""
    model("vipllava").save_pretrained(folder)
    side = {"height": tiny.SIDE, "width": tiny.SIDE}
    LlavaProcessor(
        image_processor=CLIPImageProcessorPil(size=side, do_center_crop=False), tokenizer=tiny.tokenizer(),
        patch_size=tiny.PATCH, vision_feature_select_strategy="default", num_additional_image_tokens=1,
    ).save_pretrained(folder)  # fmt: skip
    return folder


def mistral3_checkpoint(folder: Path) -> Path:
    """Mistral 3 with its stock processor: pictures of any size, each one grid of tokens."""
    model("mistral3").save_pretrained(folder)
    tokenizer = tiny.tokenizer()
    PixtralProcessor(
        image_processor=PixtralImageProcessorPil(size={"longest_edge": 96}, patch_size={"height": 6, "width": 6}),
        tokenizer=tokenizer, patch_size=6, spatial_merge_size=2, image_token="<image>", image_break_token="<s>",
        image_end_token="</s>",
    ).save_pretrained(folder)  # fmt: skip
    return folder
