"""Tiny Qwen3-VL and Qwen3.5 with random weights and their real processor classes, for tests.

Configurations are the published ones made small: `config.json` of Qwen3-VL has the encoder's layers of deepstack, the
sections of interleaved M-RoPE and untied embeddings; that of Qwen3.5 full attention in every fourth layer, rotary
angles on a quarter of each head, and no deepstack. The templates say what the published ones say of messages of text,
pictures and videos; what they say of tools is left out.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import (
    Qwen3_5Config,
    Qwen3_5ForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from tests.tiny_qwen import PICTURE, SPECIAL, TOKENS, VIDEO, bytewise

KINDS = ["Qwen3VL", "Qwen3_5"]
CONTENT = (
    "{%- macro render(content) %}{%- if content is string %}{{- content }}{%- else %}{%- for c in content %}"
    "{%- if c.type == 'image' or 'image' in c or 'image_url' in c %}{{- '"
    + PICTURE
    + "' }}{%- elif c.type == 'video' or 'video' in c %}{{- '"
    + VIDEO
    + "' }}{%- elif 'text' in c %}{{- c.text }}{%- endif %}{%- endfor %}{%- endif %}{%- endmacro %}"
)
TURNS = (
    CONTENT + "{%- for m in messages %}{{- '<|im_start|>' + m.role + '\\n' }}{{- render(m.content) }}"
    "{{- '<|im_end|>\\n' }}{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}"
)
TEMPLATES = {
    "Qwen3VL": TURNS + "{%- endif %}",
    "Qwen3_5": TURNS
    + "{%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}"
    "{%- else %}{{- '<think>\\n' }}{%- endif %}{%- endif %}",
}
TOWER = {
    "depth": 6, "hidden_size": 32, "intermediate_size": 48, "num_heads": 4, "out_hidden_size": 32,
    "num_position_embeddings": 64,
}  # fmt: skip
TEXT = {
    "vocab_size": 256 + len(SPECIAL), "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 1024, "initializer_range": 0.3,
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip


def config(kind: str) -> Any:
    ids = {name: SPECIAL.index(token) for name, token in TOKENS.items()}
    if kind == "Qwen3VL":
        rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1], "mrope_interleaved": True}
        text = {**TEXT, "num_hidden_layers": 5, "head_dim": 8, "rope_parameters": rope}
        return Qwen3VLConfig(text_config=text, vision_config={**TOWER, "deepstack_visual_indexes": [1, 2, 4]}, **ids)
    rope = {
        "rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1], "mrope_interleaved": True,
        "partial_rotary_factor": 0.5,
    }  # fmt: skip
    linear = {
        "linear_key_head_dim": 8, "linear_value_head_dim": 8, "linear_num_key_heads": 2, "linear_num_value_heads": 4,
    }  # fmt: skip
    # Small weights: the stock linear attention rounds by where its chunks begin, and large ones blow that up.
    wide = {"num_hidden_layers": 8, "head_dim": 16, "initializer_range": 0.1}
    text = {**TEXT, **wide, "rope_parameters": rope, **linear}
    return Qwen3_5Config(text_config=text, vision_config=TOWER, **ids)


def model(kind: str, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    build: Any = Qwen3VLForConditionalGeneration if kind == "Qwen3VL" else Qwen3_5ForConditionalGeneration
    built = build(config(kind))
    for name, weight in built.model.visual.named_parameters():
        if name.endswith("attn.qkv.weight"):
            weight.data *= 8  # fresh weights give nearly flat attention
        elif "merger_list" in name and name.endswith("weight") and weight.ndim == 2:
            weight.data *= 30  # and deepstack features that nobody would miss
    built.generation_config.pad_token_id, built.generation_config.eos_token_id = 0, 2
    built.generation_config.bos_token_id = None
    return built.eval()


def processor(kind: str, most_groups: int = 40) -> Qwen3VLProcessor:
    """As in `preprocessor_config.json`: patches of 16 px, merged by two, pixels from -1 to 1; fewer pixels at most."""
    half = [0.5, 0.5, 0.5]
    pictures = Qwen2VLImageProcessorPil(
        patch_size=16, temporal_patch_size=2, merge_size=2, image_mean=half, image_std=half,
        size={"shortest_edge": 64 * 64, "longest_edge": 32 * 32 * most_groups},
    )  # fmt: skip
    videos = Qwen3VLVideoProcessor(size={"shortest_edge": 64 * 64, "longest_edge": 2 * 32 * 32 * most_groups})
    return Qwen3VLProcessor(pictures, bytewise(), videos, chat_template=TEMPLATES[kind])


def checkpoint(kind: str, folder: Path) -> Path:
    """A whole checkpoint on disk, as `flowcut.load` takes it."""
    model(kind).save_pretrained(folder)
    processor(kind).save_pretrained(folder)
    return folder
