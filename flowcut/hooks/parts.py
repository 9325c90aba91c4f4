"""Where a composite model keeps its parts, and what kind each is of."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import nn


def parts_of(model: nn.Module, names: Sequence[str]) -> Iterator[nn.Module]:
    """The modules under these names in the model and in its `model`, each followed by its own `vision_model`.

    Args:
        names: attributes, in the order in which they are tried; "" is the place itself.
    """
    for place in (model, getattr(model, "model", None)):
        for name in names:
            part = getattr(place, name, None) if name else place
            if isinstance(part, nn.Module):
                yield part
                inner = getattr(part, "vision_model", None)
                if isinstance(inner, nn.Module):
                    yield inner


def model_type(model: nn.Module) -> str:
    """transformers' name for this kind of model; of other modules their class."""
    return str(getattr(getattr(model, "config", None), "model_type", type(model).__name__))
