"""Tiny InternVL, SmolVLM2 and Idefics3 with random weights and their real processor classes, for tests.

Templates, special tokens and the processors' settings are those of the published checkpoints (InternVL3-1B-hf as
transformers' conversion script writes it, SmolVLM2-256M-Video-Instruct), but for the tiles' size in pixels and, to
have fewer of them, SmolVLM's longest edge: two tiles, not four.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3Processor,
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLProcessor,
    InternVLVideoProcessor,
    PreTrainedTokenizerFast,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
    SmolVLMProcessor,
    SmolVLMVideoProcessor,
)
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil

from tests.tiny import sharpen

INTERN = ["InternVL3", "InternVL3_5"]
"""With a decoder of Qwen2, and with one of Qwen3 and a tower that normalises queries and keys."""
SMOL = ["SmolVLM", "Idefics3"]
SIDES = {"InternVL3": (48, 6), "InternVL3_5": (48, 6), "SmolVLM": (64, 4), "Idefics3": (47, 5)}
"""Side of a tile and of a patch, px; Idefics3's has a rest that no patch covers, as the published 384 px by 14."""
SQUARES = {"InternVL3": 2, "InternVL3_5": 2, "SmolVLM": 4, "Idefics3": 3}
INTERN_SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<img>", "</img>", "<IMG_CONTEXT>", "<video>"]
SMOL_SPECIAL = [
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<end_of_utterance>", "<fake_token_around_image>", "<image>",
    "<global-img>", "<video>", *(f"<row_{row + 1}_col_{col + 1}>" for row in range(6) for col in range(6)),
]  # fmt: skip
INTERN_TEMPLATE = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n'}}{% if message['content'] is string %}"
    "{{ message['content'] }}{% else %}{% for content in message['content'] %}{% if content['type'] == 'image' %}"
    "{{ '<IMG_CONTEXT>\n' }}{% elif content['type'] == 'video' %}{{ '<video>\n' }}"
    "{% elif content['type'] == 'text' %}{{ content['text'] }}{% endif %}{% endfor %}{% endif %}"
    "{{'<|im_end|>\n'}}{% endfor %}{% if add_generation_prompt %}{{'<|im_start|>assistant\n' }}{% endif %}"
)
SMOL_TEMPLATE = (
    "<|im_start|>{% for message in messages %}{{message['role'] | capitalize}}"
    "{% if message['content'][0]['type'] == 'image' %}{{':'}}{% else %}{{': '}}{% endif %}"
    "{% for line in message['content'] %}{% if line['type'] == 'text' %}{{line['text']}}"
    "{% elif line['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}<end_of_utterance>\n{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)


def image_id(kind: str) -> int:
    """The placeholder's id."""
    return INTERN_SPECIAL.index("<IMG_CONTEXT>") if kind in INTERN else SMOL_SPECIAL.index("<image>")


def per_tile(kind: str) -> int:
    """Tokens of an uncut tile."""
    side, patch = SIDES[kind]
    return (side // patch // SQUARES[kind]) ** 2


def text_config(kind: str) -> dict[str, Any]:
    special = INTERN_SPECIAL if kind in INTERN else SMOL_SPECIAL
    own = {"InternVL3": {"model_type": "qwen2"}, "InternVL3_5": {"model_type": "qwen3", "head_dim": 8}}
    return {
        "vocab_size": 256 + len(special), "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 4096, "initializer_range": 0.3,
        "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, **own.get(kind, {"model_type": "llama"}),
    }  # fmt: skip


def model(kind: str, attention: str = "sdpa", **overrides: Any) -> Any:
    torch.manual_seed(0)
    side, patch = SIDES[kind]
    vision: dict[str, Any] = {
        "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 6, "num_attention_heads": 4,
        "image_size": side, "patch_size": patch,
    }  # fmt: skip
    parts = {"text_config": text_config(kind), "image_token_id": image_id(kind), "attn_implementation": attention}
    if kind in INTERN:
        vision |= {"use_qk_norm": kind == "InternVL3_5", "attention_bias": True, "layer_scale_init_value": 1.0}
        built: Any = InternVLForConditionalGeneration(
            InternVLConfig(vision_config=vision, image_seq_length=per_tile(kind), **parts, **overrides)
        )
        for name, weight in built.model.vision_tower.embeddings.named_parameters():
            if name in ("cls_token", "position_embeddings"):  # which are zero in fresh models
                torch.nn.init.normal_(weight, std=0.5)
        sharpen(built.model.vision_tower, 3.0)
    else:
        config, made = {
            "SmolVLM": (SmolVLMConfig, SmolVLMForConditionalGeneration),
            "Idefics3": (Idefics3Config, Idefics3ForConditionalGeneration),
        }[kind]
        built = made(config(vision_config=vision, scale_factor=SQUARES[kind], **parts, **overrides))
        sharpen(built.model.vision_model, 3.0)
    built.generation_config.pad_token_id, built.generation_config.eos_token_id = 0, 2
    built.generation_config.bos_token_id = None
    return built.eval()


def tokenizer(kind: str) -> PreTrainedTokenizerFast:
    special = INTERN_SPECIAL if kind in INTERN else SMOL_SPECIAL
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate([*special, *letters])}
    bytewise = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    bytewise.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytewise.decoder = decoders.ByteLevel()
    named = {"start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>",
             "video_token": "<video>"}  # fmt: skip
    if kind in INTERN:
        own: dict[str, Any] = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "extra_special_tokens": named}
    else:
        own = {"bos_token": "<|im_start|>", "eos_token": "<end_of_utterance>", "pad_token": "<|im_end|>"}
    return PreTrainedTokenizerFast(
        tokenizer_object=bytewise, padding_side="left", additional_special_tokens=special[1:], **own
    )


def processor(kind: str, **settings: Any) -> Any:
    """The stock processor; `settings` are the image processor's."""
    side, words = SIDES[kind][0], tokenizer(kind)
    if kind in INTERN:
        pixels: dict[str, Any] = {
            "size": {"height": side, "width": side}, "image_mean": [0.485, 0.456, 0.406],
            "image_std": [0.229, 0.224, 0.225],
        }  # fmt: skip
        pictures: Any = GotOcr2ImageProcessorPil(**pixels, **settings)
        frames: Any = InternVLVideoProcessor(**pixels)
        built: Any = InternVLProcessor(
            pictures, words, frames, image_seq_length=per_tile(kind), chat_template=INTERN_TEMPLATE
        )
        return built
    sizes = {"size": {"longest_edge": 2 * side}, "max_image_size": {"longest_edge": side}, **settings}
    options = {"image_seq_len": per_tile(kind), "chat_template": SMOL_TEMPLATE}
    if kind == "Idefics3":
        return Idefics3Processor(Idefics3ImageProcessorPil(**sizes), words, **options)
    sampling = {"fps": 1, "max_frames": 64, "video_size": {"longest_edge": side}}
    films = SmolVLMVideoProcessor(video_sampling=sampling, **sizes)
    return SmolVLMProcessor(SmolVLMImageProcessorPil(**sizes), words, films, **options)


def checkpoint(kind: str, folder: Path) -> Path:
    """A whole checkpoint on disk, as `flowcut.load` takes it."""
    model(kind).save_pretrained(folder)
    processor(kind).save_pretrained(folder)
    return folder


def published(kind: str, folder: Path) -> Path:
    """The same checkpoint in the files of the published ones, which older versions of transformers wrote."""
    checkpoint(kind, folder)
    side, old = SIDES[kind][0], {"rescale_factor": 0.00392156862745098, "do_convert_rgb": True, "do_normalize": True}
    name = {"SmolVLM": "SmolVLM", "Idefics3": "Idefics3"}.get(kind, "InternVL")
    if kind in INTERN:
        old |= {
            "image_processor_type": "GotOcr2ImageProcessorFast", "size": {"height": side, "width": side},
            "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225], "crop_to_patches": False,
            "min_patches": 1, "max_patches": 12, "resample": 3, "default_to_square": True,
        }  # fmt: skip
        tokens = {"image_seq_length": per_tile(kind)}
    else:
        old |= {
            "image_processor_type": f"{name}ImageProcessor", "do_image_splitting": True, "do_pad": True,
            "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "max_image_size": {"longest_edge": side}, "resample": 1,
            "size": {"longest_edge": 2 * side},
            "video_sampling": {"fps": 1, "max_frames": 64, "video_size": {"longest_edge": side}},
        }  # fmt: skip
        tokens = {"image_seq_len": per_tile(kind)}
        (folder / "chat_template.jinja").unlink()
        (folder / "chat_template.json").write_text(json.dumps({"chat_template": SMOL_TEMPLATE}))
    own = {"processor_class": f"{name}Processor"}
    (folder / "preprocessor_config.json").write_text(json.dumps({**old, **own}))
    (folder / "processor_config.json").write_text(json.dumps({**tokens, **own}))
    if kind == "Idefics3":
        config = json.loads((folder / "config.json").read_text())
        config["vision_config"]["model_type"] = "idefics3"
        (folder / "config.json").write_text(json.dumps(config))
    return folder
