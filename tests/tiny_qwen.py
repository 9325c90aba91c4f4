"""Tiny Qwen2-VL and Qwen2.5-VL with random weights and their real processor classes, for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLVideoProcessor,
)
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

SPECIAL = [
    "<pad>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>",
]  # fmt: skip
PICTURE = "<|vision_start|><|image_pad|><|vision_end|>"
VIDEO = "<|vision_start|><|video_pad|><|vision_end|>"
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% if m['content'] is string %}{{ m['content'] }}{% else %}"
    "{% for c in m['content'] %}{% if c['type'] == 'image' %}"
    + PICTURE
    + "{% elif c['type'] == 'video' %}"
    + VIDEO
    + "{% else %}{{ c['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
KINDS = ["Qwen2VL", "Qwen2_5_VL"]


def model(kind: str, seed: int = 0, layers: int = 2) -> Any:
    torch.manual_seed(seed)
    text = {
        "vocab_size": 256 + len(SPECIAL), "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": layers,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 1024, "initializer_range": 0.3,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]},
        "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
    }  # fmt: skip
    ids = {name: SPECIAL.index(token) for name, token in TOKENS.items()}
    if kind == "Qwen2VL":
        vision = {"depth": 6, "embed_dim": 32, "hidden_size": 32, "num_heads": 4, "mlp_ratio": 2}
        built: Any = Qwen2VLForConditionalGeneration(Qwen2VLConfig(text_config=text, vision_config=vision, **ids))
    else:
        vision = {
            "depth": 6, "hidden_size": 32, "intermediate_size": 48, "num_heads": 4, "out_hidden_size": 32,
            "window_size": 112, "fullatt_block_indexes": [1, 4],
        }  # fmt: skip
        built = Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(text_config=text, vision_config=vision, **ids))
    for block in built.model.visual.blocks:
        block.attn.qkv.weight.data *= 8  # fresh weights give nearly flat attention
    built.generation_config.pad_token_id, built.generation_config.eos_token_id = 0, 2
    built.generation_config.bos_token_id = None
    return built.eval()


TOKENS = {
    "image_token_id": "<|image_pad|>", "video_token_id": "<|video_pad|>",
    "vision_start_token_id": "<|vision_start|>", "vision_end_token_id": "<|vision_end|>",
}  # fmt: skip


def bytewise() -> PreTrainedTokenizerFast:
    """Byte by byte, with the special tokens of Qwen."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate([*SPECIAL, *letters])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<|im_end|>", padding_side="left",
        additional_special_tokens=[token for token in SPECIAL if token not in ("<pad>", "<|im_end|>")],
    )  # fmt: skip


def processor(kind: str, most_groups: int = 40) -> Any:
    pictures = Qwen2VLImageProcessorPil(size={"shortest_edge": 56 * 56, "longest_edge": 28 * 28 * most_groups})
    videos = Qwen2VLVideoProcessor(size={"shortest_edge": 56 * 56, "longest_edge": 28 * 28 * most_groups})
    return getattr(transformers, f"{kind}Processor")(pictures, bytewise(), videos, chat_template=TEMPLATE)


def checkpoint(kind: str, folder: Path) -> Path:
    """A whole checkpoint on disk, as `flowcut.load` takes it."""
    model(kind).save_pretrained(folder)
    processor(kind).save_pretrained(folder)
    return folder
