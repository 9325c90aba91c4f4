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
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": str(next(model.parameters()).device),
        "versions": library_versions(),
    }


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
