"""What a record says of the model and of the libraries that it ran on; and the wait for its device."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from transformers import PreTrainedModel

LIBRARIES = ("torch", "transformers", "numpy", "flowcut-lens")


def model_facts(model: PreTrainedModel) -> dict[str, Any]:
    """What a record says about the model it comes from, and the libraries it ran on."""
    return {
        "model_id": model.name_or_path or None,
        "family": model.config.model_type,
        "dtype": precision_of(model),
        "device": str(next(model.parameters()).device),
        "versions": library_versions(),
    }


def precision_of(model: PreTrainedModel) -> str:
    """The model's dtype, such as `float32`; of quantised weights also in what form they are, and by what."""
    dtype = str(model.dtype).removeprefix("torch.")
    told = getattr(model.config, "quantization_config", None)
    if told is None:
        return dtype
    settings = told if isinstance(told, dict) else vars(told)
    method = str(getattr(settings.get("quant_method"), "value", settings.get("quant_method") or "unnamed"))
    named = {8: ("_load_in_8bit", "load_in_8bit"), 4: ("_load_in_4bit", "load_in_4bit")}
    loaded = next((bits for bits, names in named.items() if any(settings.get(name) for name in names)), None)
    bits = loaded or settings.get("bits")
    kind = settings.get("quant_type")  # torchao's, which says the bits itself
    by = method if kind is None else f"{method}, {kind if isinstance(kind, str) else type(kind).__name__}"
    return f"{dtype}, weights quantised{'' if bits is None else f' to {bits} bits'} ({by})"


def library_versions() -> dict[str, str]:
    """Python's version and that of each library that may change a number."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue  # a checkout that is not installed has no version of its own
    return found


def synchronise(device: torch.device) -> None:
    """Wait until the device has done what it was given; the CPU always has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
