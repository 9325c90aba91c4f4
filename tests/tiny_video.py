"""Tiny models that take videos, with random weights and their real processor classes, for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import (
    LlamaConfig,
    LlavaNextVideoConfig,
    LlavaNextVideoForConditionalGeneration,
    LlavaNextVideoProcessor,
    LlavaNextVideoVideoProcessor,
    LlavaOnevisionProcessor,
    LlavaOnevisionVideoProcessor,
    VideoLlavaConfig,
    VideoLlavaForConditionalGeneration,
    VideoLlavaProcessor,
    VideoLlavaVideoProcessor,
)
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil
from transformers.models.llava_onevision.image_processing_pil_llava_onevision import LlavaOnevisionImageProcessorPil
from transformers.models.video_llava.image_processing_video_llava import VideoLlavaImageProcessor

from tests.families import test_llava_onevision
from tests.tiny import N_PATCHES, PATCH, PINPOINTS, SIDE, SPECIAL, sharpen, tokenizer, vision_config

KINDS = ["VideoLlava", "LlavaNextVideo", "LlavaOnevision"]
IMAGE, VIDEO = SPECIAL.index("<image>"), 256 + len(SPECIAL)
SQUARE = {"size": {"shortest_edge": SIDE}, "crop_size": {"height": SIDE, "width": SIDE}}


def model(kind: str, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    if kind == "LlavaOnevision":
        return test_llava_onevision.build()
    text = LlamaConfig(
        vocab_size=VIDEO + 1, hidden_size=32, intermediate_size=48, num_hidden_layers=3,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=2048,
        bos_token_id=1, eos_token_id=2, pad_token_id=0, initializer_range=0.2,
    )  # fmt: skip
    parts: dict[str, Any] = {
        "vision_config": vision_config(), "text_config": text, "image_token_index": IMAGE, "video_token_index": VIDEO,
    }  # fmt: skip
    if kind == "VideoLlava":
        built: Any = VideoLlavaForConditionalGeneration(VideoLlavaConfig(**parts))
        sharpen(built.model.image_tower)
        sharpen(built.model.video_tower)
    else:
        config = LlavaNextVideoConfig(**parts, image_grid_pinpoints=PINPOINTS, image_seq_length=N_PATCHES)
        built = LlavaNextVideoForConditionalGeneration(config)
        sharpen(built.model.vision_tower)
    built.generation_config.eos_token_id, built.generation_config.pad_token_id = 2, 0
    return built.eval()


def processor(kind: str) -> Any:
    words = tokenizer()
    words.add_tokens(["<video>"], special_tokens=True)
    if kind == "LlavaOnevision":
        pictures = LlavaOnevisionImageProcessorPil(
            size={"height": SIDE, "width": SIDE}, image_grid_pinpoints=test_llava_onevision.GRIDS
        )
        frames = LlavaOnevisionVideoProcessor(size={"height": SIDE, "width": SIDE})
        return LlavaOnevisionProcessor(
            pictures, words, frames, num_image_tokens=N_PATCHES, vision_aspect_ratio="anyres_max_4",
            vision_feature_select_strategy="full",
        )  # fmt: skip
    counts = {"patch_size": PATCH, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}
    if kind == "VideoLlava":
        parts: Any = (VideoLlavaImageProcessor(**SQUARE), VideoLlavaVideoProcessor(**SQUARE), words)
        return VideoLlavaProcessor(*parts, **counts)
    pictures = LlavaNextImageProcessorPil(image_grid_pinpoints=PINPOINTS, **SQUARE)
    return LlavaNextVideoProcessor(LlavaNextVideoVideoProcessor(**SQUARE), pictures, words, **counts)


def checkpoint(kind: str, folder: Path) -> Path:
    """A whole checkpoint on disk, as `flowcut.load` takes it."""
    model(kind).save_pretrained(folder)
    processor(kind).save_pretrained(folder)
    return folder


def clip(seed: int = 0, frames: int = 3, size: tuple[int, int] = (60, 52)) -> np.ndarray:
    """uint8 [frames, height, width, 3], blocks of noise, another in each frame."""
    noise = np.random.default_rng(seed).integers(0, 256, (frames, size[1] // 4, size[0] // 4, 3), dtype=np.uint8)
    return noise.repeat(4, axis=1).repeat(4, axis=2)
