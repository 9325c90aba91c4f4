"""Load a vision-language model by name: the embedded one, a local folder, or an id on the Hugging Face hub.

Only safetensors weights are read, and no code that comes with a model is ever run.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import shorten
from typing import Any, cast

import torch
from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import HFValidationError
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageTextToText, AutoProcessor, PreTrainedModel

from flowcut.errors import ModelNotLoaded
from flowcut.families import FAMILIES, family_of, unsupported
from flowcut.families.family import Family
from flowcut.families.processors import processor_class
from flowcut.models import memory
from flowcut.models.download import fetch
from flowcut.models.hub import Progress, report_to_nobody
from flowcut.models.memory import SHARE_FOR_WEIGHTS

EMBEDDED = "embedded"
EMBEDDED_VARIABLE = "FLOWCUT_EMBEDDED"
HASHED_BYTES = 200_000_000
LONGEST_NAME = 250
"""Characters of a model's name: the longest that every file system takes."""
LEAST_SHARE_OF_WEIGHTS = 0.5
"""Of the numbers that config.json asks for; a checkpoint with fewer is not loaded at all."""
ASSUMED_FREE = 8_000_000_000
"""Bytes, where the system does not say."""
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True, eq=False)
class VisionLanguageModel:
    """A model ready to be asked; several people may share it, one run at a time."""

    model: PreTrainedModel
    processor: Any
    family: Family
    id: str
    """The name it was loaded by: `embedded`, a folder, or a hub id."""
    revision: str | None
    """The hub's commit; of a local model the start of its weights' SHA-256, if they are not too large to hash."""
    lock: threading.RLock = field(default_factory=threading.RLock)
    """Held by `flowcut.ask` while it runs."""

    @property
    def n_layers(self) -> int:
        """Layers of the vision encoder."""
        return int(self.model.config.vision_config.num_hidden_layers)

    @property
    def n_heads(self) -> int:
        """Attention heads of the vision encoder."""
        return int(self.model.config.vision_config.num_attention_heads)

    @property
    def n_patches(self) -> int:
        """Patches of a picture before any cut."""
        return self.family.n_patches(self.model)

    @property
    def dtype(self) -> str:
        """Such as `float32`."""
        return str(self.model.dtype).removeprefix("torch.")

    @property
    def device(self) -> str:
        """Such as `cpu` or `cuda:0`."""
        return str(self.model.device)


def load(
    name: str | os.PathLike[str] = EMBEDDED,
    device: str | None = None,
    dtype: str | torch.dtype | None = None,
    progress: Progress | None = None,
) -> VisionLanguageModel:
    """Load a model and its processor.

    Args:
        name: `embedded`, a folder with a transformers checkpoint, or a hub id such as `llava-hf/llava-1.5-7b-hf`.
        device: None takes CUDA, else Apple's MPS, else the CPU.
        dtype: None takes bfloat16 or float16 on a GPU, float32 on a CPU (bfloat16 where memory is short).
        progress: called with what is being done and how far it is, several times a second while it waits for a
            network; what it raises ends the loading, and a download goes on from there another time. None: nobody
            is called, but of a download there is a bar on stderr.

    Raises:
        ModelNotLoaded: (a ValueError) one sentence: not found, no network, not supported, not complete.
    """
    report = progress or report_to_nobody
    chosen_device = _device(device)
    folder, revision = _folder(str(name), report)
    config = _config(folder, str(name))
    family = family_of(config)
    weights = _weight_files(folder, str(name))
    parameters = _needed_parameters(config, weights, str(name))
    chosen_dtype = _dtype(dtype, chosen_device, parameters)
    _check_memory(str(name), parameters, chosen_dtype, chosen_device)
    report(None, "Reading the processor")
    processor = _processor(folder, str(name), family)
    report(None, f"Reading {_gigabytes(weights)} of weights")
    model = _model(folder, str(name), chosen_dtype)
    report(0.9, f"Moving the model to {chosen_device}")
    model = _moved(model, chosen_device)
    family.complete_processor(processor, model)
    report(1.0, "Ready")
    return VisionLanguageModel(model, processor, family, str(name), revision or _weights_hash(weights))


def known_family(name: str) -> Family | None:
    """The family of the model of this name, as its configuration on this machine says; None: there is none to use.

    Loads nothing and asks no network.
    """
    try:
        return family_of(_config(_folder_here(name), name))
    except (ModelNotLoaded, OSError, ValueError):  # the latter two of names that no file system takes
        return None


def _folder_here(name: str) -> Path:
    """Where a model's configuration lies on this machine; a folder without one where it does not."""
    if name == EMBEDDED:
        return embedded_folder()
    try:
        cached = None if Path(name).is_dir() else try_to_load_from_cache(name, "config.json")
    except HFValidationError:
        cached = None
    return Path(cached).parent if isinstance(cached, str) else Path(name)


def embedded_folder() -> Path:
    """Where the embedded model lies: FLOWCUT_EMBEDDED, else the checkout's assets/, else the installed package's.

    Raises:
        ModelNotLoaded: it is in none of these.
    """
    package = Path(__file__).resolve().parents[1]
    places = [package.parent / "assets" / EMBEDDED, package / "assets" / EMBEDDED]
    if os.environ.get(EMBEDDED_VARIABLE):
        places = [Path(os.environ[EMBEDDED_VARIABLE])]
    for place in places:
        if (place / "config.json").is_file():
            return place
    raise ModelNotLoaded(
        f"The embedded model is not in {places[0]}: set {EMBEDDED_VARIABLE} to its folder, or make it with make train."
    )


def _folder(name: str, report: Progress) -> tuple[Path, str | None]:
    """The local folder of a model, fetched first if need be, and the hub's commit."""
    if name == EMBEDDED:
        return embedded_folder(), None
    if len(name) > LONGEST_NAME:
        raise ModelNotLoaded(f"The model's name has {len(name)} characters: give a folder, a hub id, or '{EMBEDDED}'.")
    if name and Path(name).is_dir():
        return Path(name), None
    if not name.strip() or Path(name).exists() or name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise ModelNotLoaded(f"There is no model folder at {name!r}: give a folder, a hub id, or '{EMBEDDED}'.")
    folder = _download(name, report)
    return folder, folder.name


def _download(name: str, report: Progress) -> Path:
    """Fetch a checkpoint into the hub's cache; its kind is checked before its weights are fetched."""
    return fetch(name, lambda folder: family_of(_config(folder, name)), report)


def fetch_only(name: str, progress: Progress | None = None) -> None:
    """Bring a model onto this machine without loading it; the arguments and errors of `load`."""
    _folder(name, progress or report_to_nobody)


def _config(folder: Path, name: str) -> Any:
    if not (folder / "config.json").is_file():
        raise ModelNotLoaded(f"The folder {folder} holds no model (no config.json): give a transformers checkpoint.")
    try:
        model_type = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type")
        if model_type not in FAMILIES:
            raise unsupported(model_type)
        return AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except ModelNotLoaded:
        raise
    except Exception as error:  # no JSON, or transformers' many kinds for values it cannot use
        raise ModelNotLoaded(
            f"{name} has a config.json that cannot be used ({_reason(error)}): copy it again."
        ) from error


def _weight_files(folder: Path, name: str) -> list[Path]:
    """The checkpoint's safetensors files, each opened once to see that it is whole."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        others = any(folder.glob("*.bin")) or any(folder.glob("*.pt*"))
        reason = "only weights that are not safetensors" if others else "no weights"
        raise ModelNotLoaded(f"{name} holds {reason}: flowcut reads *.safetensors files only, so add them.")
    for file in files:
        try:
            with safe_open(file, framework="np") as opened:
                opened.keys()
        except (SafetensorError, OSError) as error:
            raise ModelNotLoaded(f"The weights file {file.name} of {name} is incomplete: copy it again.") from error
    return files


def _processor(folder: Path, name: str, family: Family) -> Any:
    try:
        loader = AutoProcessor if family.processor_class is None else processor_class(family.processor_class)
        processor = loader.from_pretrained(folder, trust_remote_code=False)
        # Pictures are resized by Pillow whether torchvision is there or not: its pixels differ a little.
        processor.image_processor = AutoImageProcessor.from_pretrained(folder, backend="pil", trust_remote_code=False)
    except Exception as error:  # tokenizers, image processors and their files fail in many ways
        raise ModelNotLoaded(
            f"{name} has no usable processor ({_reason(error)}): add its tokenizer and preprocessor files."
        ) from error
    if not hasattr(processor, "image_processor") or not hasattr(processor, "tokenizer"):
        raise ModelNotLoaded(f"{name} has no processor for pictures and text: add its preprocessor_config.json.")
    return processor


def _model(folder: Path, name: str, dtype: torch.dtype) -> PreTrainedModel:
    try:
        loaded: Any = AutoModelForImageTextToText.from_pretrained(
            folder, dtype=dtype, use_safetensors=True, trust_remote_code=False, output_loading_info=True
        )
    except torch.cuda.OutOfMemoryError as error:
        raise ModelNotLoaded(f"{name} does not fit into the device's memory: choose a smaller model.") from error
    except Exception as error:  # a wrong shape, a missing shard, a broken file: transformers has a kind for each
        if "ignore_mismatched_sizes" in str(error):
            raise ModelNotLoaded(
                f"The weights of {name} are not of the shapes in its config.json: copy both from one place."
            ) from error
        raise ModelNotLoaded(f"The weights of {name} cannot be loaded ({_reason(error)}): copy it again.") from error
    model, report = loaded
    missing = sorted(report["missing_keys"])
    if missing:
        raise ModelNotLoaded(
            f"{name} is incomplete: {len(missing)} weights are missing, the first is {missing[0]}; copy it again."
        )
    foreign = _foreign_parts(model, report["unexpected_keys"])
    if foreign:
        raise ModelNotLoaded(
            f"The weights of {name} have a part {foreign[0]!r}, for which a {model.config.model_type} model has no "
            "place: config.json and weights are of different models, so copy both from one place."
        )
    model.eval()
    return cast(PreTrainedModel, model)


def _foreign_parts(model: Any, unexpected: Iterable[str]) -> list[str]:
    """Whole parts of a checkpoint that this model does not have; what is left over inside its own parts is let be."""
    parts = [model, model.model]
    named = [*(part.named_children() for part in parts), *(part.named_parameters(recurse=False) for part in parts)]
    own = {name for names in named for name, _ in names}
    return sorted({key.removeprefix("model.").split(".")[0] for key in unexpected} - own)


def _moved(model: PreTrainedModel, device: torch.device) -> PreTrainedModel:
    try:
        return cast(PreTrainedModel, cast(Any, model).to(device))
    except (torch.cuda.OutOfMemoryError, RuntimeError) as error:
        raise ModelNotLoaded(
            f"The model does not fit on {device} ({_reason(error)}): choose a smaller model, or device='cpu'."
        ) from error


def _device(wanted: str | None) -> torch.device:
    if wanted is None:
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(wanted)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:  # unknown or without a backend; known but not compiled in
        raise ModelNotLoaded(f"The device {wanted!r} is not available here: choose cpu, cuda or mps.") from error
    return device


def _parameters(weights: list[Path]) -> int:
    """How many numbers the weights are, from the headers of their files."""
    count = 0
    for file in weights:
        with safe_open(file, framework="np") as opened:
            names = opened.keys()
            count += sum(math.prod(opened.get_slice(name).get_shape()) for name in names)
    return count


def _needed_parameters(config: Any, weights: list[Path], name: str) -> int:
    """How many numbers the model of this configuration has; its weights must hold most of them.

    A few missing ones are named after loading; where most are missing, the rest would fill the memory with noise first.
    """
    try:
        with torch.device("meta"):
            skeleton: Any = AutoModelForImageTextToText.from_config(config)
        skeleton.tie_weights()
    except Exception as error:  # transformers has many kinds for values that it cannot build a model from
        raise ModelNotLoaded(
            f"{name} has a config.json that cannot be used ({_reason(error)}): copy it again."
        ) from error
    needed = sum(int(weight.numel()) for weight in skeleton.parameters())
    found = _parameters(weights)
    if found < LEAST_SHARE_OF_WEIGHTS * needed:
        raise ModelNotLoaded(
            f"{name} is incomplete: its weights hold {found / 1e6:.1f} M numbers and its config.json asks for "
            f"{needed / 1e6:.1f} M; copy it again."
        )
    return needed


def _check_memory(name: str, parameters: int, dtype: torch.dtype, device: torch.device) -> None:
    """Refuse, before anything is read, what would drive the machine into swapping or the device out of memory."""
    needed, free = parameters * dtype.itemsize, free_memory(device)
    if free is not None and needed > free:
        kind = str(dtype).removeprefix("torch.")
        raise ModelNotLoaded(
            f"{name} needs {needed / 1e9:.1f} GB in {kind}, and {free / 1e9:.1f} GB are free on {device}: choose a "
            "smaller model or another device, or free memory first."
        )


def free_memory(device: torch.device) -> int | None:
    """Bytes that weights may still take on the device; None where nobody says."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return memory.free() if device.type == "cpu" else None


def _dtype(wanted: str | torch.dtype | None, device: torch.device, parameters: int) -> torch.dtype:
    if isinstance(wanted, torch.dtype):
        return wanted
    if wanted is not None:
        if wanted not in DTYPES:
            raise ModelNotLoaded(f"The dtype is {wanted!r}: choose one of {', '.join(DTYPES)}.")
        return DTYPES[wanted]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    if device.type == "mps":
        return torch.float16
    free = memory.free() or ASSUMED_FREE
    return torch.float32 if parameters * torch.float32.itemsize < SHARE_FOR_WEIGHTS * free else torch.bfloat16


def _weights_hash(weights: list[Path]) -> str | None:
    if sum(file.stat().st_size for file in weights) > HASHED_BYTES:
        return None
    digest = hashlib.sha256()
    for file in weights:
        digest.update(file.read_bytes())
    return digest.hexdigest()[:12]


def _gigabytes(files: list[Path]) -> str:
    size = sum(file.stat().st_size for file in files)
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"


def _reason(error: BaseException) -> str:
    """The first sentence of another library's error, to stand in brackets in ours."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return shorten(lines[0].split(". ")[0].rstrip(".:"), width=200, placeholder=" ...")
