"""A family's processor where a package is missing: without its video half, or with numbers said in our own words."""

from __future__ import annotations

from typing import Any

import transformers
from transformers.models.smolvlm import processing_smolvlm
from transformers.utils import is_torchvision_available

from flowcut.families.number_words import in_words


def processor_class(name: str) -> Any:
    """transformers' processor of this name; without torchvision, one that takes pictures and text alone.

    transformers refuses to build these processors without a video processor, and has none without torchvision.
    """
    stock = getattr(transformers, name)
    if name == "SmolVLMProcessor":
        say_numbers()
    return stock if is_torchvision_available() else pictures_only(stock)


def pictures_only(stock: Any) -> Any:
    """The stock class under its own name, with the video processor left out of what it is made of."""

    def get_attributes(cls: Any) -> list[str]:
        return [part for part in stock.get_attributes() if part != "video_processor"]

    return type(stock.__name__, (stock,), {"get_attributes": classmethod(get_attributes), "video_processor": None})


def say_numbers() -> None:
    """Give transformers something to say numbers with, where the package num2words is missing.

    It refuses to build a SmolVLM processor without, and uses it for nothing but the number of a video's frames.
    """
    if processing_smolvlm.num2words is None:
        processing_smolvlm.num2words = in_words
