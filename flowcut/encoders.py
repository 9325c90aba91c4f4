"""Where the parts of a vision encoder are: its layers, their attention, its patch embedding. One entry per encoder."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any, cast

from torch import nn
from transformers import PreTrainedModel

from flowcut.errors import FlowCutError

SUPPORTED = {"clip_vision_model": "CLIP vision towers (CLIPVisionModel)"}
"""Encoders with a CLS token whose layers take no mask, by transformers' model_type."""
LIBRARIES = ("torch", "transformers", "numpy", "flowcut-lens")


@dataclass(frozen=True, eq=False)
class VisionEncoder:
    """The parts of one vision encoder that recording and pruning hook into."""

    model: PreTrainedModel
    layers: list[nn.Module]
    patch_embedding: nn.Module
    """Gives [B, width, rows, columns]."""
    n_heads: int

    def attention(self, layer: nn.Module) -> nn.Module:
        """The module of a layer that calls the attention function."""
        return cast(nn.Module, layer.self_attn)

    def facts(self) -> dict[str, Any]:
        """What a record says about the encoder and the libraries it ran on."""
        return model_facts(self.model)


def find_encoder(model: nn.Module) -> VisionEncoder:
    """The vision encoder that `model` is or holds.

    Raises:
        FlowCutError: none is found, or only one of a kind that is not supported.
    """
    candidates = list(_candidates(model))
    for candidate in candidates:
        if _model_type(candidate) in SUPPORTED and hasattr(candidate, "encoder"):
            parts = cast(Any, candidate)
            return VisionEncoder(
                model=parts,
                layers=list(parts.encoder.layers),
                patch_embedding=parts.embeddings.patch_embedding,
                n_heads=parts.config.num_attention_heads,
            )
    kinds = [_model_type(candidate) for candidate in candidates] or [type(model).__name__]
    supported = ", ".join(SUPPORTED.values())
    raise FlowCutError(f"No supported vision encoder in {' / '.join(kinds)}: flowcut reads {supported}.")


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


def _candidates(model: nn.Module) -> Iterator[nn.Module]:
    """The model itself, then the places where a composite model keeps its vision tower."""
    places = (model, getattr(model, "model", None))
    for place in places:
        for name in ("", "vision_tower", "vision_model"):
            part = getattr(place, name, None) if name else place
            if isinstance(part, nn.Module):
                yield part
                inner = getattr(part, "vision_model", None)
                if isinstance(inner, nn.Module):
                    yield inner


def _model_type(model: nn.Module) -> str:
    return str(getattr(getattr(model, "config", None), "model_type", type(model).__name__))
