"""What a model must be for hooks to reach it: itself, not wrapped; not compiled; with its weights in memory."""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers import PreTrainedModel

from flowcut.errors import FlowCutError


def check_is_model(given: Any) -> None:
    """
    Raises:
        FlowCutError: this is no transformers model; of a wrapper, the sentence says how to get at what it holds.
    """
    if isinstance(given, PreTrainedModel):
        return
    kind = type(given).__name__
    if hasattr(given, "get_base_model") and hasattr(given, "merge_and_unload"):
        raise FlowCutError(
            f"hf_model is a {kind} around a model: give hf_model.get_base_model(), whose layers have the adapter in "
            "them, or what hf_model.merge_and_unload() returns."
        )
    if isinstance(getattr(given, "_orig_mod", None), PreTrainedModel):
        raise FlowCutError(
            f"hf_model is a {kind}, compiled with torch.compile, where no hook reaches the layers: give "
            "hf_model._orig_mod, the same model with the same weights."
        )
    raise FlowCutError(f"hf_model is a {kind}: give a transformers model (of what flowcut.load returned, its .model).")


def check_usable(model: nn.Module) -> None:
    """
    Raises:
        FlowCutError: a part of it is compiled, or some weights are not in memory.
    """
    for name, part in model.named_modules(remove_duplicate=True):
        way = _compiled(part)
        if way is not None:
            raise FlowCutError(
                f"The part {name or type(part).__name__!r} of this model is compiled with torch.compile, where no hook "
                f"reaches the layers: {way}."
            )
    away = next((name for name, weight in model.named_parameters() if weight.is_meta), None)
    if away is not None:
        raise FlowCutError(
            f"The weights of {away} are not in memory (device_map put them on another device or the disk): load the "
            "model without device_map, or with flowcut.load(..., quantize='8bit') to make it fit."
        )


def _compiled(part: nn.Module) -> str | None:
    """How a compiled module is had uncompiled; None: it is not compiled."""
    if isinstance(getattr(part, "_modules", {}).get("_orig_mod"), nn.Module):
        return "put its _orig_mod in its place"
    if hasattr(vars(part).get("forward"), "_torchdynamo_orig_callable"):
        return "delete its attribute forward, which hides the one of its class"
    if getattr(part, "_compiled_call_impl", None) is not None:
        return "set its attribute _compiled_call_impl to None"
    return None
