"""Load a vision-language model by name: the embedded one, a local folder, or an id on the Hugging Face hub.

Only safetensors weights are read, and no code that comes with a model is ever run.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import torch
from huggingface_hub import hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import HFValidationError
from transformers import AutoImageProcessor, AutoModelForImageTextToText, AutoProcessor, PreTrainedModel

from flowcut.errors import ModelNotLoaded, NoRoom
from flowcut.families import family_of
from flowcut.families.family import Family
from flowcut.families.processors import processor_class
from flowcut.hooks.model_facts import precision_of
from flowcut.models import memory
from flowcut.models.checkpoint import ADAPTER, an_adapter, read_config, size_of, weight_files, weights_hash
from flowcut.models.download import NoConfig, fetch
from flowcut.models.hub import Progress, report_to_nobody
from flowcut.models.memory import SHARE_FOR_WEIGHTS
from flowcut.models.quantize import Quantization, check_packed, is_packed, planned
from flowcut.models.sentences import gigabytes, reason

EMBEDDED = "embedded"
EMBEDDED_VARIABLE = "FLOWCUT_EMBEDDED"
LONGEST_NAME = 250
"""Characters of a model's name: the longest that every file system takes."""
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
        """Such as `float32`; of quantised weights also how: `bfloat16, weights quantised to 4 bits (bitsandbytes)`."""
        return precision_of(self.model)

    @property
    def device(self) -> str:
        """Such as `cpu` or `cuda:0`."""
        return str(self.model.device)


def load(
    name: str | os.PathLike[str] = EMBEDDED,
    device: str | None = None,
    dtype: str | torch.dtype | None = None,
    progress: Progress | None = None,
    quantize: str | None = None,
) -> VisionLanguageModel:
    """Load a model and its processor.

    Args:
        name: `embedded`, a folder with a transformers checkpoint, or a hub id such as `llava-hf/llava-1.5-7b-hf`.
        device: None takes CUDA, else Apple's MPS, else the CPU.
        dtype: None takes bfloat16 or float16 on a GPU, float32 on a CPU (bfloat16 where memory is short).
        progress: called with what is being done and how far it is, several times a second while it waits for a
            network; what it raises ends the loading, and a download goes on from there another time. None: nobody
            is called, but of a download there is a bar on stderr.
        quantize: `8bit` or `4bit`: the language model's weights in so many bits, by torchao (8 bits on a CPU) or
            bitsandbytes, which `pip install 'flowcut-lens[quantize]'` brings. None: as they are.

    Raises:
        ModelNotLoaded: (a ValueError) one sentence: not found, no network, not supported, not complete.
    """
    report = progress or report_to_nobody
    chosen_device = _device(device)
    quantization = planned(quantize, chosen_device)

    def checked(folder: Path) -> Any:
        config = read_config(folder, str(name))
        check_packed(config, str(name), chosen_device, quantization)
        return config

    folder, revision = _folder(str(name), report, checked)
    config = checked(folder)
    family = family_of(config)
    weights = weight_files(folder, str(name))
    size = size_of(config, weights, str(name), quantization)
    chosen_dtype = _dtype(dtype, chosen_device, size.in_memory(torch.float32))
    _check_memory(str(name), size.in_memory(chosen_dtype), chosen_dtype, chosen_device)
    report(None, "Reading the processor")
    processor = _processor(folder, str(name), family)
    report(None, f"Reading {gigabytes(weights)} of weights")
    model = _model(folder, str(name), chosen_dtype, _placing(config, chosen_dtype, chosen_device, quantization))
    report(0.9, f"Moving the model to {chosen_device}")
    model = _moved(model, chosen_device)
    family.complete_processor(processor, model)
    report(1.0, "Ready")
    return VisionLanguageModel(model, processor, family, str(name), revision or weights_hash(weights))


def _placing(
    config: Any, dtype: torch.dtype, device: torch.device, quantization: Quantization | None
) -> dict[str, Any]:
    """What transformers is told of quantised weights, which some libraries put on the device themselves."""
    told = {} if quantization is None else {"quantization_config": quantization.config(dtype)}
    placed = is_packed(config) if quantization is None else quantization.placed
    if placed and find_spec("accelerate") is not None:
        told["device_map"] = {"": str(device)}
    return told


def known_family(name: str) -> Family | None:
    """The family of the model of this name, as its configuration on this machine says; None: there is none to use.

    Loads nothing and asks no network.
    """
    try:
        return family_of(read_config(_folder_here(name), name))
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


def _folder(name: str, report: Progress, checked: Callable[[Path], Any]) -> tuple[Path, str | None]:
    """The local folder of a model, fetched first if need be, and the hub's commit."""
    if name == EMBEDDED:
        return embedded_folder(), None
    if len(name) > LONGEST_NAME:
        raise ModelNotLoaded(f"The model's name has {len(name)} characters: give a folder, a hub id, or '{EMBEDDED}'.")
    if name and Path(name).is_dir():
        return Path(name), None
    if not name.strip() or Path(name).exists() or name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise ModelNotLoaded(f"There is no model folder at {name!r}: give a folder, a hub id, or '{EMBEDDED}'.")
    folder = _download(name, report, checked)
    return folder, folder.name


def _download(name: str, report: Progress, checked: Callable[[Path], Any]) -> Path:
    """Fetch a checkpoint into the hub's cache; its kind is checked before its weights are fetched."""
    try:
        return fetch(name, checked, report)
    except NoConfig as error:
        raise _without_config(name, error) from error


def fetch_only(name: str, progress: Progress | None = None) -> None:
    """Bring a model onto this machine without loading it; the arguments and errors of `load`."""
    _folder(name, progress or report_to_nobody, lambda folder: read_config(folder, name))


def _without_config(name: str, error: NoConfig) -> ModelNotLoaded:
    """Why a repository on the hub has no config.json: it may hold an adapter."""
    try:
        return an_adapter(name, Path(hf_hub_download(name, ADAPTER)))
    except Exception:  # no adapter, or no answer any more
        return error


def _processor(folder: Path, name: str, family: Family) -> Any:
    try:
        loader = AutoProcessor if family.processor_class is None else processor_class(family.processor_class)
        processor = loader.from_pretrained(folder, trust_remote_code=False)
        # Pictures are resized by Pillow whether torchvision is there or not: its pixels differ a little.
        processor.image_processor = AutoImageProcessor.from_pretrained(folder, backend="pil", trust_remote_code=False)
    except Exception as error:  # tokenizers, image processors and their files fail in many ways
        raise ModelNotLoaded(
            f"{name} has no usable processor ({reason(error)}): add its tokenizer and preprocessor files."
        ) from error
    if not hasattr(processor, "image_processor") or not hasattr(processor, "tokenizer"):
        raise ModelNotLoaded(f"{name} has no processor for pictures and text: add its preprocessor_config.json.")
    return processor


def _model(folder: Path, name: str, dtype: torch.dtype, placing: dict[str, Any]) -> PreTrainedModel:
    told = {"use_safetensors": True, "trust_remote_code": False, "output_loading_info": True, **placing}
    try:
        loaded: Any = AutoModelForImageTextToText.from_pretrained(folder, dtype=dtype, **told)
    except torch.cuda.OutOfMemoryError as error:
        raise ModelNotLoaded(f"{name} does not fit into the device's memory: choose a smaller model.") from error
    except Exception as error:  # a wrong shape, a missing shard, a broken file: transformers has a kind for each
        if "ignore_mismatched_sizes" in str(error):
            raise ModelNotLoaded(
                f"The weights of {name} are not of the shapes in its config.json: copy both from one place."
            ) from error
        raise ModelNotLoaded(f"The weights of {name} cannot be loaded ({reason(error)}): copy it again.") from error
    model, report = loaded
    missing = sorted(report["missing_keys"])
    strange = sorted(report["unexpected_keys"])
    if strange and len(missing) > len(model.state_dict()) // 2:
        raise ModelNotLoaded(
            f"The weights of {name} have other names than transformers gives them (the first is {strange[0]}): they "
            "are of another model, or in another code's layout; choose a checkpoint converted for transformers."
        )
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
    if getattr(model, "hf_device_map", None):  # it is there, and some quantised weights refuse to be moved
        return model
    try:
        return cast(PreTrainedModel, cast(Any, model).to(device))
    except (torch.cuda.OutOfMemoryError, RuntimeError) as error:
        raise ModelNotLoaded(
            f"The model does not fit on {device} ({reason(error)}): choose a smaller model, or device='cpu'."
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


def _check_memory(name: str, needed: int, dtype: torch.dtype, device: torch.device) -> None:
    """Refuse, before anything is read, what would drive the machine into swapping or the device out of memory.

    Args:
        needed: bytes of the weights.
    """
    free = free_memory(device)
    if free is not None and needed > free:
        kind = str(dtype).removeprefix("torch.")
        raise NoRoom(
            f"{name} needs {needed / 1e9:.1f} GB in {kind}, and {free / 1e9:.1f} GB are free on {device}: choose a "
            "smaller model or another device, quantize it, or free memory first."
        )


def free_memory(device: torch.device) -> int | None:
    """Bytes that weights may still take on the device; None where nobody says."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return memory.free() if device.type == "cpu" else None


def _dtype(wanted: str | torch.dtype | None, device: torch.device, as_float32: int) -> torch.dtype:
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
    return torch.float32 if as_float32 < SHARE_FOR_WEIGHTS * free else torch.bfloat16
