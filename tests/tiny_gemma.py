"""Tiny models with SigLIP towers and random weights, with their real processor classes: LLaVA, DeepSeek-VL and its
hybrid, PaliGemma with both of its decoders, Gemma 3. Processors and templates as published: see each function."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast
from transformers.models.deepseek_vl.image_processing_pil_deepseek_vl import DeepseekVLImageProcessorPil
from transformers.models.deepseek_vl_hybrid.image_processing_pil_deepseek_vl_hybrid import (
    DeepseekVLHybridImageProcessorPil,
)
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from tests.tiny import sharpen

KINDS = ["Llava", "DeepseekVL", "DeepseekVLHybrid", "PaliGemma", "PaliGemma2", "Gemma3"]
SIDE, PATCH = 48, 6
N_PATCHES = (SIDE // PATCH) ** 2
GEMMA_SIDE = 96
"""Of Gemma 3's input, px: 16 x 16 patches, 16 tokens."""
SPECIAL = ["<pad>", "<eos>", "<bos>", "<image>", "<start_of_image>", "<end_of_image>", "<start_of_turn>",
           "<end_of_turn>"]  # fmt: skip
IMAGE = SPECIAL.index("<image>")
VOCABULARY = 256 + len(SPECIAL)

LLAVA_TEMPLATE = (  # ChatML with a placeholder before the text, as models of this build with a Qwen decoder have it
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + ' '}}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>' }}{% endfor %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}{{ '\n' + content['text'] }}"
    "{% endfor %}{{'<|im_end|>'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
DEEPSEEK_TEMPLATE = (  # as transformers' own test of DeepseekVLProcessor has it, of its two turns the user's
    "You are a helpful language and vision assistant. You are able to understand the visual content that the user "
    "provides, and assist the user with a variety of tasks using natural language.\n\n"
    "{% for message in messages %}{% if message['role']|lower == 'user' %}User: {% else %}"
    "{{ message['role'].capitalize() }}: {% endif %}{% for content in message['content'] %}"
    "{% if content['type'] == 'image' %}<image>{% elif content['type'] == 'text' %}{{ content['text'] }}{% endif %}"
    "{% endfor %}{{ '\n\n' }}{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"
)
GEMMA_TEMPLATE = (  # as transformers' conversion script of Gemma 3 has it, of its checks the roles' left out
    "{{ bos_token }}{%- if messages[0]['role'] == 'system' -%}"
    "{%- set first_user_prefix = messages[0]['content'][0]['text'] + '\n\n' -%}{%- set loop_messages = messages[1:] -%}"
    "{%- else -%}{%- set first_user_prefix = '' -%}{%- set loop_messages = messages -%}{%- endif -%}"
    "{%- for message in loop_messages -%}{{ '<start_of_turn>' + message['role'] + '\n' + "
    "(first_user_prefix if loop.first else '') }}{%- for item in message['content'] -%}"
    "{%- if item['type'] == 'image' -%}{{ '<start_of_image>' }}{%- else -%}{{ item['text'] | trim }}{%- endif -%}"
    "{%- endfor -%}{{ '<end_of_turn>\n' }}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<start_of_turn>model\n' }}{%- endif -%}"
)


def model(kind: str, seed: int = 0, **overrides: Any) -> Any:
    """`overrides` are fields of the configuration."""
    torch.manual_seed(seed)
    name = kind.removesuffix("2")
    fields = {**_PARTS[kind](), "vision_config": _vision(kind), "image_token_index": IMAGE, **overrides}
    if name.startswith("Deepseek"):
        fields["image_token_id"] = fields.pop("image_token_index")
    config = getattr(transformers, f"{name}Config")(**fields)
    built = getattr(transformers, f"{name}ForConditionalGeneration")(config)
    sharpen(getattr(built.model, "vision_tower", None) or built.model.vision_model, 3.0)
    for weight in built.model.parameters():
        if weight.ndim < 4 and not weight.any() and "Gemma3" in kind and weight.ndim == 2:
            weight.data.normal_(std=0.3)  # the projection of Gemma 3 begins with zeros
    built.generation_config.eos_token_id, built.generation_config.pad_token_id = 1, 0
    return built.eval()


def _vision(kind: str) -> dict[str, Any]:
    side = GEMMA_SIDE if kind == "Gemma3" else SIDE
    return {
        "model_type": "siglip_vision_model", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 6,
        "num_attention_heads": 4, "image_size": side, "patch_size": PATCH, "vision_use_head": False,
    }  # fmt: skip


def _text(kind: str, **own: Any) -> dict[str, Any]:
    return {
        "model_type": kind, "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48,
        "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
        "max_position_embeddings": 2048, "initializer_range": 0.2, "bos_token_id": 2, "eos_token_id": 1,
        "pad_token_id": 0, **own,
    }  # fmt: skip


def _llava() -> dict[str, Any]:
    return {
        "text_config": _text("qwen2"), "vision_feature_layer": -1, "vision_feature_select_strategy": "full",
        "image_seq_length": N_PATCHES,
    }  # fmt: skip


def _deepseek() -> dict[str, Any]:
    return {"text_config": _text("llama"), "tie_word_embeddings": False}


def _hybrid() -> dict[str, Any]:
    sam = {
        "model_type": "sam_vision_model", "hidden_size": 16, "output_channels": 8, "num_hidden_layers": 2,
        "num_attention_heads": 2, "image_size": 64, "patch_size": 8, "window_size": 4, "global_attn_indexes": [1],
        "mlp_dim": 24, "initializer_range": 0.1,
    }  # fmt: skip
    return {**_deepseek(), "high_res_vision_config": sam}


def _paligemma() -> dict[str, Any]:
    return {"text_config": _text("gemma"), "projection_dim": 32, "hidden_size": 32, "tie_word_embeddings": False}


def _paligemma2() -> dict[str, Any]:
    text = _text("gemma2", sliding_window=24, query_pre_attn_scalar=8)
    return {"text_config": text, "projection_dim": 32, "hidden_size": 32, "tie_word_embeddings": False}


def _gemma3() -> dict[str, Any]:
    kinds = ["sliding_attention", "sliding_attention", "full_attention", "sliding_attention"]
    text = _text("gemma3_text", sliding_window=12, query_pre_attn_scalar=8, layer_types=kinds)
    return {
        "text_config": text, "mm_tokens_per_image": 16, "tie_word_embeddings": False,
        "boi_token_index": SPECIAL.index("<start_of_image>"),
        "eoi_token_index": SPECIAL.index("<end_of_image>"),
    }  # fmt: skip


_PARTS = dict(zip(KINDS, [_llava, _deepseek, _hybrid, _paligemma, _paligemma2, _gemma3], strict=True))


def tokenizer(begins: bool = True) -> PreTrainedTokenizerFast:
    """Byte by byte; with `begins` it writes the first token itself."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate([*SPECIAL, *letters])}
    bytewise = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    bytewise.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytewise.decoder = decoders.ByteLevel()
    bytewise.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    if begins:
        bytewise.post_processor = processors.TemplateProcessing(
            single="<bos> $A", pair="<bos> $A $B:1", special_tokens=[("<bos>", SPECIAL.index("<bos>"))]
        )
    names = {"image_token": "<image>", "boi_token": "<start_of_image>", "eoi_token": "<end_of_image>"}
    return PreTrainedTokenizerFast(
        tokenizer_object=bytewise, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>", padding_side="left",
        extra_special_tokens=names,
    )  # fmt: skip


def processor(kind: str) -> Any:
    half = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}  # SigLIP's own, also in DeepSeek-VL's conversion script
    square = {"size": {"height": SIDE, "width": SIDE}, **half}
    name = kind.removesuffix("2")
    stock = getattr(transformers, f"{name}Processor")
    if kind == "Llava":
        counted = {"patch_size": PATCH, "vision_feature_select_strategy": "full"}
        return stock(
            SiglipImageProcessorPil(**square), tokenizer(begins=False), chat_template=LLAVA_TEMPLATE, **counted
        )
    if name == "DeepseekVL":
        return stock(DeepseekVLImageProcessorPil(**square), tokenizer(), DEEPSEEK_TEMPLATE, N_PATCHES)
    if name == "DeepseekVLHybrid":
        pictures = DeepseekVLHybridImageProcessorPil(**square, high_res_size={"height": 64, "width": 64})
        return stock(pictures, tokenizer(), DEEPSEEK_TEMPLATE, N_PATCHES)
    if name == "PaliGemma":
        return stock(SiglipImageProcessorPil(**square, image_seq_length=N_PATCHES), tokenizer(begins=False))
    pictures = Gemma3ImageProcessorPil(**{**square, "size": {"height": GEMMA_SIDE, "width": GEMMA_SIDE}})
    return stock(pictures, tokenizer(), GEMMA_TEMPLATE, image_seq_length=16)


def checkpoint(kind: str, folder: Path) -> Path:
    """A whole checkpoint on disk, as `flowcut.load` takes it."""
    model(kind).save_pretrained(folder)
    processor(kind).save_pretrained(folder)
    return folder
