"""Weights of few bits: quantised while they are read, or packed in the checkpoint; what cannot be is said first.

The language model is quantised. The vision encoder, whose attention is recorded, the projector and the head stay as
they are.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch

from flowcut.errors import ModelNotLoaded
from flowcut.models.sentences import reason

BITS = {"8bit": 8, "4bit": 4}
WHOLE = (
    "vision_tower", "vision_model", "visual", "image_tower", "video_tower", "multi_modal_projector", "mm_projector",
    "image_newline", "connector", "aligner", "embed_vision", "perceiver", "lm_head",
)  # fmt: skip
"""Parts that are not quantised, by the names that models give them."""
INSTALL = "pip install 'flowcut-lens[quantize]'"


@dataclass(frozen=True)
class Quantization:
    """How weights are quantised while they are read."""

    bits: int
    library: str
    """`torchao`: weights alone, in 8 bits. `bitsandbytes`: 8 bits (LLM.int8) or 4 (NF4)."""

    @property
    def placed(self) -> bool:
        """Whether the library puts the model on its device itself."""
        return self.library == "bitsandbytes"

    def config(self, dtype: torch.dtype) -> Any:
        """What transformers is told."""
        whole = [rf"(.*\.)?{part}" for part in WHOLE]
        if self.library == "torchao":
            from torchao.quantization import Int8WeightOnlyConfig  # type: ignore[import-not-found, unused-ignore]
            from transformers import TorchAoConfig

            return TorchAoConfig(Int8WeightOnlyConfig(), modules_to_not_convert=whole)
        from transformers import BitsAndBytesConfig

        if self.bits == 8:
            return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=whole)
        settings = {"bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": dtype}
        return BitsAndBytesConfig(load_in_4bit=True, llm_int8_skip_modules=whole, **settings)


def kept_whole(module: str) -> bool:
    """Whether the module of this name is left as it is."""
    return any(re.match(rf"(.*\.)?{part}(\.|$)", module) for part in WHOLE)


def planned(wanted: str | None, device: torch.device) -> Quantization | None:
    """What is used for `8bit` or `4bit` on a device; None for None.

    Raises:
        ModelNotLoaded: another word, a device on which there is nothing for it, or a library that is not installed.
    """
    if wanted is None:
        return None
    if wanted not in BITS:
        raise ModelNotLoaded(f"quantize is {wanted!r}: choose {' or '.join(BITS)}, or leave it out.")
    if device.type not in ("cpu", "cuda"):
        raise ModelNotLoaded(
            f"quantize={wanted!r} is for cpu and cuda, and the device is {device.type}: leave quantize out, or choose "
            "device='cpu'."
        )
    usable = _libraries(wanted, device)
    for library, needs in usable.items():
        if all(find_spec(package) is not None for package in needs):
            return Quantization(BITS[wanted], library)
    needed = " or ".join(" and ".join(needs) for needs in usable.values())
    raise ModelNotLoaded(f"quantize={wanted!r} on {device.type} needs {needed}: run {INSTALL}, or leave quantize out.")


def _libraries(wanted: str, device: torch.device) -> dict[str, tuple[str, ...]]:
    """By library the packages it needs; the first that is there is taken."""
    bitsandbytes: dict[str, tuple[str, ...]] = {"bitsandbytes": ("bitsandbytes", "accelerate")}
    torchao: dict[str, tuple[str, ...]] = {"torchao": ("torchao",)}
    if BITS[wanted] == 4:
        return bitsandbytes
    return {**torchao, **bitsandbytes} if device.type == "cpu" else {**bitsandbytes, **torchao}


def is_packed(config: Any) -> bool:
    """Whether the checkpoint's weights are quantised already (AWQ, GPTQ, ...): several numbers may be in one."""
    return getattr(config, "quantization_config", None) is not None


def check_packed(config: Any, name: str, device: torch.device, quantization: Quantization | None) -> None:
    """Refuse a packed checkpoint that cannot be read here, before its weights are fetched.

    Raises:
        ModelNotLoaded: what it is packed by is not known or not installed, or does not run on this device.
    """
    if not is_packed(config):
        return
    method = method_of(config)
    if quantization is not None:
        raise ModelNotLoaded(f"The weights of {name} are quantised already ({method}): leave quantize out.")
    from transformers.quantizers.auto import AUTO_QUANTIZER_MAPPING, AutoHfQuantizer

    if method not in {re.sub(r"_[48]bit$", "", known) for known in AUTO_QUANTIZER_MAPPING}:
        raise ModelNotLoaded(
            f"The weights of {name} are quantised by {method!r}, which transformers does not read: choose the same "
            "model in another form."
        )
    try:
        quantizer = AutoHfQuantizer.from_config(config.quantization_config, pre_quantized=True)
        quantizer.validate_environment(device_map={"": str(device)}, dtype=None, weights_only=True)
    except Exception as error:  # a missing package or device, of a kind for each quantiser
        raise ModelNotLoaded(
            f"The weights of {name} are quantised ({method}), and cannot be read here: {_advice(error)}, or choose the "
            "same model in another form."
        ) from error


def method_of(config: Any) -> str:
    """What quantised the weights, such as `awq`, `gptq` or `bitsandbytes`."""
    told = _settings_of(config)
    method = told.get("quant_method") or (
        "bitsandbytes" if told.get("load_in_4bit") or told.get("load_in_8bit") else ""
    )
    return str(getattr(method, "value", method)) or "an unnamed method"


def _settings_of(config: Any) -> dict[str, Any]:
    told = config.quantization_config
    return dict(told) if isinstance(told, dict) else dict(vars(told))


def _advice(error: BaseException) -> str:
    """What to do, from a quantiser's own words: the package to install, else its first sentence."""
    command = re.search(r"pip install [^`\n]*[^`\n.)]", str(error))
    if command is not None:
        return f"run {command[0]}"
    return reason(error)
