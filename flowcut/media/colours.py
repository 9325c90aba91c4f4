"""Any colours become 8-bit RGB; what is lost or changed by it is said in a sentence each."""

from __future__ import annotations

import re

import numpy as np
from PIL import Image

FULL_16_BITS = 65_535
UNUSED_ALPHA = ("BMP", "DIB", "TGA")
"""Pillow's names of formats whose fourth channel many programs leave empty and mean nothing by it."""
DEEP = re.compile(r"\b[A-Za-z]+;16[BLN]\b")
"""How Pillow calls 16 bits a channel that it reads as 8."""


def is_deep(image: Image.Image) -> bool:
    """Whether a file that is not decoded yet has 16 bits a channel, of which Pillow keeps 8."""
    grey = image.mode.startswith("I")  # these keep all their bits
    return not grey and any(DEEP.search(str(tile)) for tile in getattr(image, "tile", ()))


def to_rgb(image: Image.Image, file_format: str | None, deep: bool = False) -> tuple[Image.Image, list[str]]:
    """A copy of mode RGB, and what was done to make it so.

    Args:
        image: of any mode, decoded.
        file_format: Pillow's name of the format of the file that it comes from.
        deep: the file has 16 bits a channel, of which 8 are left.
    """
    more: list[str] = []
    if image.mode == "RGB" and "transparency" not in image.info:
        rgb = image.copy()
    elif image.mode.startswith("I") or image.mode == "F":
        rgb, more = _deep_greys(image)
    elif image.has_transparency_data:
        rgb, more = _opaque(image, file_format)
    else:
        changed = image.mode in ("CMYK", "YCbCr", "LAB", "HSV")
        rgb, more = image.convert("RGB"), [f"The picture's {image.mode} colours were converted to RGB."] * changed
    return _of_upper_bits(rgb, more) if deep else (rgb, more)


def _of_upper_bits(rgb: Image.Image, notes: list[str]) -> tuple[Image.Image, list[str]]:
    """What is left of 16 bits a channel; stretched where it is less than half as bright as can be."""
    pixels = np.asarray(rgb)
    most = int(pixels.max())
    if most == 0 or most > 127:
        return rgb, ["The picture's colours of 16 bits were cut to their upper 8.", *notes]
    note = (
        f"The picture's colours of 16 bits reach {most} of 255 in their upper 8, which are read: they were stretched, "
        f"in {most} steps."
    )
    return Image.fromarray(_rounded(pixels * (255.0 / most))), [note, *notes]


def without_unused_alpha(layer: Image.Image) -> tuple[Image.Image, list[str]]:
    """A picture of mode RGBA whose alpha channel is empty because nobody filled it."""
    return layer.convert("RGB"), ["The picture's alpha channel is empty, so unused: its colours were taken as opaque."]


def _opaque(image: Image.Image, file_format: str | None) -> tuple[Image.Image, list[str]]:
    """What a viewer shows on white paper."""
    straight = {"La": "LA", "RGBa": "RGBA"}.get(image.mode)  # colours that were multiplied by alpha
    layer = (image.convert(straight) if straight else image).convert("RGBA")
    least, most = layer.getchannel("A").getextrema()
    if least == 255:
        return layer.convert("RGB"), []
    if most == 0 and file_format in UNUSED_ALPHA:
        return without_unused_alpha(layer)
    white = Image.new("RGBA", layer.size, "white")
    note = "Transparent parts were laid over white."
    if most == 0:
        note = "All of the picture is transparent: it was laid over white, and nothing of it is seen."
    return Image.alpha_composite(white, layer).convert("RGB"), [note]


def _deep_greys(image: Image.Image) -> tuple[Image.Image, list[str]]:
    """Greys of more than 8 bits: 16-bit ones by their scale, others (32-bit, float) by their own range."""
    grey = np.asarray(image)
    if grey.dtype.kind != "f" and grey.min() >= 0 and grey.max() <= FULL_16_BITS:
        eight_bits, note = of_16_bits(grey)
    else:
        eight_bits, note = _by_range(grey.astype(np.float64))
    key = image.info.get("transparency")  # the one grey that stands for nothing
    clear = grey == (key if isinstance(key, int) else np.nan)
    eight_bits[clear] = 255
    over_white = ["Transparent parts were laid over white."] if clear.any() else []
    return Image.fromarray(eight_bits).convert("RGB"), [note, *over_white]


def of_16_bits(values: np.ndarray) -> tuple[np.ndarray, str]:
    """uint8 of values from 0 to 65535, and how: by the full scale, or by their own where they leave half of it empty.

    Cameras and scanners put 10, 12 or 14 bits into 16: by the full scale these would be nearly black.
    """
    most = int(values.max())
    if most == 0 or most > FULL_16_BITS // 2:
        return _rounded(values / 257.0), "The picture's 16-bit values were scaled to 8 bits."
    note = (
        f"The picture's 16-bit values reach {most} of {FULL_16_BITS}: they were stretched to 8 bits, {most} becomes "
        "white."
    )
    return _rounded(values * (255.0 / most)), note


def _by_range(grey: np.ndarray) -> tuple[np.ndarray, str]:
    """Between the lowest and the highest value that is a number."""
    known = np.isfinite(grey)
    if not known.any():
        return np.zeros(grey.shape, np.uint8), "The picture holds no numbers: all of it is shown black."
    low, high = float(grey[known].min()), float(grey[known].max())
    missing = "" if known.all() else ", and what is no number is black"
    if high == low:
        return np.zeros(grey.shape, np.uint8), f"All the picture's 32-bit values are {low:g}: it is shown black."
    scaled = (np.where(known, grey, low) / (high - low) - low / (high - low)) * 255.0
    note = f"The picture's 32-bit greys were stretched to 8 bits: {low:g} is black, {high:g} is white{missing}."
    return _rounded(scaled), note


def _rounded(values: np.ndarray) -> np.ndarray:
    eight_bits: np.ndarray = np.clip(values, 0, 255).round().astype(np.uint8)
    return eight_bits
