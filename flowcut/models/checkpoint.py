"""A checkpoint on disk, before its weights are read: what kind it is, whether it is whole, how large it is."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForImageTextToText

from flowcut.errors import ModelNotLoaded
from flowcut.families import family_of, unsupported
from flowcut.models.cache import numbers_in
from flowcut.models.quantize import Quantization, is_packed, kept_whole
from flowcut.models.sentences import reason

HASHED_BYTES = 200_000_000
LEAST_SHARE_OF_WEIGHTS = 0.5
"""Of the numbers that config.json asks for; a checkpoint with fewer is not loaded at all."""
ADAPTER = "adapter_config.json"
ORIGINAL_LLAVA = re.compile(r"^(Ll|Buny|Tiny)\w*(Llama|Mistral|Mixtral|Qwen\d?|Phi\d?|Gemma|MPT|Mpt)ForCausalLM$")
"""Classes of the LLaVA authors' own code, and of code that began as a copy of it."""


@dataclass(frozen=True)
class Size:
    """How large the weights are."""

    parameters: int
    """Numbers of the model that config.json describes."""
    in_memory: Callable[[torch.dtype], int]
    """Bytes of the weights, where those that are not quantised are of this dtype."""


def read_config(folder: Path, name: str) -> Any:
    """The model's configuration.

    Raises:
        ModelNotLoaded: there is none, it is an adapter's or another code's, or of a model that is not supported.
    """
    path = folder / "config.json"
    if not path.is_file() and (folder / ADAPTER).is_file():
        raise an_adapter(name, folder / ADAPTER)
    if not path.is_file():
        raise ModelNotLoaded(f"The folder {folder} holds no model (no config.json): give a transformers checkpoint.")
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        _check_layout(told, name)
        _check_known(told)
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except ModelNotLoaded:
        raise
    except Exception as error:  # no JSON, or transformers' many kinds for values it cannot use
        raise ModelNotLoaded(
            f"{name} has a config.json that cannot be used ({reason(error)}): copy it again."
        ) from error
    family_of(config)
    return config


def an_adapter(name: str, file: Path) -> ModelNotLoaded:
    """The refusal of an adapter's folder, which names its base model where its file does."""
    try:
        base = json.loads(file.read_text(encoding="utf-8")).get("base_model_name_or_path")
    except (OSError, ValueError):
        base = None
    return ModelNotLoaded(
        f"{name} holds an adapter (adapter_config.json) for {base or 'a base model'}, not a whole model: load both "
        "with peft, call merge_and_unload(), save what it returns with save_pretrained, and give that folder."
    )


def _check_layout(told: dict[str, Any], name: str) -> None:
    """Refuse a configuration that another code wrote, whose weights have other names than transformers'."""
    classes = told.get("architectures") or [""]
    by_class = bool(ORIGINAL_LLAVA.match(str(classes[0])))
    if by_class or ("mm_vision_tower" in told and "vision_config" not in told):
        kind = classes[0] or "mm_vision_tower in its config.json"
        raise ModelNotLoaded(
            f"{name} is in the layout of the LLaVA authors' own code ({kind}), whose weights have other names: choose "
            "the same model converted for transformers (published as llava-hf/...), or convert it with transformers' "
            "convert_llava_weights_to_hf.py."
        )


def _check_known(told: dict[str, Any]) -> None:
    """Refuse a kind of model that transformers does not have, by that name and not as a broken file."""
    model_type = told.get("model_type")
    if model_type not in CONFIG_MAPPING:
        raise unsupported(model_type, own_code="auto_map" in told)


def weight_files(folder: Path, name: str) -> list[Path]:
    """The checkpoint's safetensors files, each opened once to see that it is whole.

    Raises:
        ModelNotLoaded: there are none, or one is not whole; or an adapter lies beside them.
    """
    if (folder / ADAPTER).is_file():
        raise ModelNotLoaded(
            f"{name} holds an adapter (adapter_config.json) beside the model, which would not be applied: merge it "
            "with peft's merge_and_unload() and save the result, or take its files out to have the model alone."
        )
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        others = any(folder.glob("*.bin")) or any(folder.glob("*.pt*"))
        kind = "only weights that are not safetensors" if others else "no weights"
        raise ModelNotLoaded(f"{name} holds {kind}: flowcut reads *.safetensors files only, so add them.")
    for file in files:
        try:
            with safe_open(file, framework="np") as opened:
                opened.keys()
        except (SafetensorError, OSError) as error:
            raise ModelNotLoaded(f"The weights file {file.name} of {name} is incomplete: copy it again.") from error
    return files


def size_of(config: Any, weights: list[Path], name: str, quantization: Quantization | None) -> Size:
    """How large the model of this configuration is; its weights must hold most of it.

    A few missing ones are named after loading; where most are missing, the rest would fill the memory with noise first.
    What is packed, several numbers in one, is as large as its files say.

    Raises:
        ModelNotLoaded: the configuration cannot be used, or most weights are missing.
    """
    skeleton = _skeleton(config, name)
    needed = sum(int(weight.numel()) for weight in skeleton.parameters())
    if is_packed(config):
        stored = sum(file.stat().st_size for file in weights)
        return Size(needed, lambda dtype: stored)
    found = numbers_in(weights[0].parent)
    if found < LEAST_SHARE_OF_WEIGHTS * needed:
        raise ModelNotLoaded(
            f"{name} is incomplete: its weights hold {found / 1e6:.1f} M numbers and its config.json asks for "
            f"{needed / 1e6:.1f} M; copy it again."
        )
    if quantization is None:
        return Size(needed, lambda dtype: needed * dtype.itemsize)
    small = sum(
        part.weight.numel()
        for where, part in skeleton.named_modules()
        if isinstance(part, nn.Linear) and not kept_whole(where)
    )
    return Size(needed, lambda dtype: (needed - small) * dtype.itemsize + small * quantization.bits // 8)


def _skeleton(config: Any, name: str) -> Any:
    """The model without its numbers."""
    try:
        with torch.device("meta"):
            skeleton: Any = AutoModelForImageTextToText.from_config(config)
        skeleton.tie_weights()
    except Exception as error:  # transformers has many kinds for values that it cannot build a model from
        raise ModelNotLoaded(
            f"{name} has a config.json that cannot be used ({reason(error)}): copy it again."
        ) from error
    return skeleton


def weights_hash(weights: list[Path]) -> str | None:
    """The start of the weights' SHA-256; None where they are too large to hash."""
    if sum(file.stat().st_size for file in weights) > HASHED_BYTES:
        return None
    digest = hashlib.sha256()
    for file in weights:
        digest.update(file.read_bytes())
    return digest.hexdigest()[:12]
