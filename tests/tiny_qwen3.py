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
    "Qwen3_5": TURNS.replace("render(m.content)", "render(m.content)|trim")
    + "{%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}"
    "{%- else %}{{- '<think>\\n' }}{%- endif %}{%- endif %}",
}
PUBLISHED = {
    "Qwen3VL": {
        "architectures": ["Qwen3VLForConditionalGeneration"], "model_type": "qwen3_vl", "tie_word_embeddings": True,
        "text_config": {
            "model_type": "qwen3_vl_text", "head_dim": 128, "hidden_size": 2560, "intermediate_size": 9728,
            "num_attention_heads": 32, "num_hidden_layers": 36, "num_key_value_heads": 8, "vocab_size": 151936,
            "max_position_embeddings": 262144, "rope_theta": 5000000,
            "rope_scaling": {"mrope_interleaved": True, "mrope_section": [24, 20, 20], "rope_type": "default"},
        },
        "vision_config": {
            "model_type": "qwen3_vl", "deepstack_visual_indexes": [5, 11, 17], "depth": 24, "hidden_size": 1024,
            "intermediate_size": 4096, "num_heads": 16, "num_position_embeddings": 2304, "out_hidden_size": 2560,
            "patch_size": 16, "spatial_merge_size": 2, "temporal_patch_size": 2,
        },
    },
    "Qwen3_5": {
        "architectures": ["Qwen3_5ForConditionalGeneration"], "model_type": "qwen3_5",
        "text_config": {"model_type": "qwen3_5_text", "hidden_size": 1024, "num_hidden_layers": 24},
        "vision_config": {"model_type": "qwen3_5", "depth": 12, "hidden_size": 768, "num_heads": 12},
    },
}  # fmt: skip
"""`config.json` of Qwen3-VL-4B-Instruct; of Qwen3.5 the names of its parts, at a small size."""
PREPROCESSOR = {
    "size": {"longest_edge": 16777216, "shortest_edge": 65536}, "patch_size": 16, "temporal_patch_size": 2,
    "merge_size": 2, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5],
}  # fmt: skip
"""`preprocessor_config.json` of both."""
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
    """As published, but for how many pixels it makes of a picture."""
    size = {"shortest_edge": 64 * 64, "longest_edge": 32 * 32 * most_groups}
    pictures = Qwen2VLImageProcessorPil(**{**PREPROCESSOR, "size": size})
    videos = Qwen3VLVideoProcessor(size={"shortest_edge": 64 * 64, "longest_edge": 2 * 32 * 32 * most_groups})
    return Qwen3VLProcessor(pictures, bytewise(), videos, chat_template=TEMPLATES[kind])


def checkpoint(kind: str, folder: Path) -> Path:
    """A whole checkpoint on disk, as `flowcut.load` takes it."""
    model(kind).save_pretrained(folder)
    processor(kind).save_pretrained(folder)
    return folder
