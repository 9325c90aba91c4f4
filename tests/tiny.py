"""Tiny models with random weights, made in memory, for tests: a CLIP tower, a LLaVA, a LLaVA-NeXT, processors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextProcessor,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil

SIDE, PATCH = 48, 6
N_PATCHES = (SIDE // PATCH) ** 2
SPECIAL = ["<pad>", "<s>", "</s>", "<image>"]


def vision_config(n_layers: int = 6) -> CLIPVisionConfig:
    return CLIPVisionConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=n_layers, num_attention_heads=4,
        image_size=SIDE, patch_size=PATCH, projection_dim=32,
    )  # fmt: skip


def sharpen(model: torch.nn.Module, factor: float = 6.0) -> None:
    """Fresh weights give nearly flat attention: larger queries and values make layers disagree, as trained ones do."""
    for name, weight in model.named_parameters():
        if name.endswith(("q_proj.weight", "k_proj.weight", "v_proj.weight")):
            weight.data *= factor


def clip(seed: int = 0, n_layers: int = 6, attention: str = "sdpa") -> CLIPVisionModel:
    torch.manual_seed(seed)
    config = vision_config(n_layers)
    config._attn_implementation = attention
    model = CLIPVisionModel(config).eval()
    sharpen(model)
    return model


def pixels(batch: int = 1, seed: int = 0) -> torch.Tensor:
    return torch.randn(batch, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))


def picture(seed: int = 0, size: tuple[int, int] = (60, 52)) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (size[1] // 4, size[0] // 4, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize(size)


def llava(seed: int = 0, **overrides: Any) -> LlavaForConditionalGeneration:
    torch.manual_seed(seed)
    text = LlamaConfig(
        vocab_size=256 + len(SPECIAL), hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=512,
        bos_token_id=1, eos_token_id=2, pad_token_id=0, initializer_range=0.3,
    )  # fmt: skip
    config = LlavaConfig(
        vision_config=vision_config(), text_config=text, image_token_index=SPECIAL.index("<image>"),
        image_seq_length=N_PATCHES, **overrides,
    )  # fmt: skip
    model = LlavaForConditionalGeneration(config).eval()
    sharpen(model.model.vision_tower)
    model.generation_config.bos_token_id, model.generation_config.eos_token_id = 1, 2
    model.generation_config.pad_token_id = 0
    return model


def tokenizer() -> PreTrainedTokenizerFast:
    """Byte by byte, so that any script is text to it."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate([*SPECIAL, *letters])}
    bytewise = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    bytewise.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytewise.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=bytewise, pad_token="<pad>", bos_token="<s>", eos_token="</s>", padding_side="left",
        additional_special_tokens=["<image>"],
    )  # fmt: skip


def processor(chat_template: str | None = None) -> LlavaProcessor:
    """The tokenizer above, and CLIP's image processor at the tower's size."""
    return LlavaProcessor(
        image_processor=CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}),
        tokenizer=tokenizer(), patch_size=PATCH, vision_feature_select_strategy="default",
        num_additional_image_tokens=1, chat_template=chat_template,
    )  # fmt: skip


PINPOINTS = [[48, 96], [96, 48], [96, 96], [144, 48], [48, 144]]


def llava_next(seed: int = 0) -> LlavaNextForConditionalGeneration:
    torch.manual_seed(seed)
    text = LlamaConfig(
        vocab_size=256 + len(SPECIAL), hidden_size=32, intermediate_size=48, num_hidden_layers=4,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=2048,
        bos_token_id=1, eos_token_id=2, pad_token_id=0, initializer_range=0.1,
    )  # fmt: skip
    config = LlavaNextConfig(
        vision_config=vision_config(), text_config=text, image_token_index=SPECIAL.index("<image>"),
        image_grid_pinpoints=PINPOINTS, image_seq_length=N_PATCHES,
    )  # fmt: skip
    model = LlavaNextForConditionalGeneration(config).eval()
    sharpen(model.model.vision_tower)
    model.generation_config.bos_token_id, model.generation_config.eos_token_id = 1, 2
    model.generation_config.pad_token_id = 0
    return model


def next_processor(**image_settings: Any) -> LlavaNextProcessor:
    settings = {"size": {"shortest_edge": SIDE}, "crop_size": {"height": SIDE, "width": SIDE}, **image_settings}
    return LlavaNextProcessor(
        image_processor=LlavaNextImageProcessorPil(image_grid_pinpoints=PINPOINTS, **settings), tokenizer=tokenizer(),
        patch_size=PATCH, vision_feature_select_strategy="default", num_additional_image_tokens=1,
    )  # fmt: skip


def next_checkpoint(folder: Path) -> Path:
    llava_next().save_pretrained(folder)
    next_processor().save_pretrained(folder)
    return folder


def checkpoint(folder: Path) -> Path:
    """A whole checkpoint on disk, as `flowcut.load` takes it."""
    llava().save_pretrained(folder)
    processor().save_pretrained(folder)
    return folder
