"""A family's processor where a package is missing: without its video half."""

from __future__ import annotations

from typing import Any

import transformers
from transformers.utils import is_torchvision_available


def processor_class(name: str) -> Any:
    """transformers' processor of this name; without torchvision, one that takes pictures and text alone.

    transformers refuses to build these processors without a video processor, and has none without torchvision.
    """
    stock = getattr(transformers, name)
    return stock if is_torchvision_available() else pictures_only(stock)


class _NoFrames:
    """Stands in for a missing video processor: SmolVLM2 asks it for these before it words any prompt."""

    num_frames: int | None = None
    fps: int | None = None


def pictures_only(stock: Any) -> Any:
    """The stock class under its own name, with the video processor left out of what it is made of."""

    def get_attributes(cls: Any) -> list[str]:
        return [part for part in stock.get_attributes() if part != "video_processor"]

    return type(
        stock.__name__, (stock,), {"get_attributes": classmethod(get_attributes), "video_processor": _NoFrames()}
    )
