"""Pictures in: whatever a person hands over becomes an upright RGB picture, or one sentence that says why not."""

from __future__ import annotations

import hashlib
import io
import os
import struct
import warnings
import zlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from flowcut.errors import InvalidPicture, UnknownFormat
from flowcut.media.source import open_regular, read_bounded, spoken_name

MAX_PIXELS = 80_000_000
"""A picture is decoded whole: 80 megapixels take 240 MB."""
MAX_ASPECT = 50
"""The encoder's resize makes the shorter side 336 px: at 50 to 1 the longer one is then 16,800 px."""
FORMATS = "PNG, JPEG, WebP, GIF, BMP or TIFF"
DECODERS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
"""Pillow's names for them. No other decoder is let near a stranger's file."""
EXIF_ORIENTATION = 0x0112
# Everything that Pillow's decoders are known to raise on damaged files.
DAMAGED = (
    OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, OverflowError, MemoryError,
    RuntimeError, struct.error, zlib.error,
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture as it is shown and asked about; its pixels are not to be changed, since its hash is taken once."""

    image: Image.Image
    """Upright, mode RGB, in its original size."""
    notes: tuple[str, ...] = ()
    """What was changed to make it so, one sentence each."""

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.image.size

    @cached_property
    def hash(self) -> str:
        """SHA-256 of size and pixels, taken once: the same picture in another file format has the same hash."""
        width, height = self.size
        digest = hashlib.sha256(f"{width}x{height}".encode())
        digest.update(self.image.tobytes())
        return digest.hexdigest()


def open_picture(source: Any) -> Picture:
    """Open a picture from a path, bytes, an open binary file, a PIL image, an array or a Picture.

    Arrays are [height, width] or [height, width, 1, 3 or 4]: uint8, uint16, bool, or floats from 0 to 1.
    Transparency is laid over white, the first frame stands for an animation, EXIF orientation is applied, 16 bits
    become 8, CMYK becomes RGB; each is noted.

    Raises:
        InvalidPicture: (a ValueError) one sentence: what was got, what is allowed, what to do.
    """
    if isinstance(source, Picture):
        return source
    if isinstance(source, np.ndarray):
        source = _from_array(source)
    if isinstance(source, Image.Image):
        return _upright_rgb(source, "The picture")
    name, content = _read(source)
    if not content:
        raise InvalidPicture(f"{name} is empty (0 bytes): choose a {FORMATS} file.")
    return _upright_rgb(_identify(content, name), name)


def _read(source: Any) -> tuple[str, bytes]:
    """The name to use in a sentence, and the content."""
    if isinstance(source, bytes | bytearray | memoryview):
        return "The picture", bytes(source)
    if isinstance(source, str | os.PathLike):
        path = Path(source)
        with open_regular(path, "picture", f"a {FORMATS} file") as file:
            return path.name or str(path), read_bounded(file, path.name)
    if hasattr(source, "read"):
        name = spoken_name(source, "The picture")
        return name, read_bounded(source, name)
    kind = type(source).__name__
    raise InvalidPicture(f"The picture is a {kind}: give a path, bytes, an open file, a PIL image or an array.")


def _identify(content: bytes, name: str) -> Image.Image:
    """Open without decoding: the size is known before any memory is spent on pixels."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # _check_size has its own limit and sentence
        try:
            return Image.open(io.BytesIO(content), formats=DECODERS)
        except Image.DecompressionBombError as error:
            raise InvalidPicture(_too_many_pixels(name, "far too many")) from error
        except UnidentifiedImageError as error:
            raise UnknownFormat(f"{name} is not a picture that can be read: choose a {FORMATS} file.") from error
        except DAMAGED as error:
            raise InvalidPicture(_is_damaged(name)) from error


def _upright_rgb(image: Image.Image, name: str) -> Picture:
    _check_size(image, name)
    notes = []
    try:
        frames = getattr(image, "n_frames", 1)
        if frames > 1:
            image.seek(0)
            notes.append(f"The picture is an animation of {frames} frames: the first one was used.")
        image.load()
        image, turned = _upright(image)
        notes += turned
        rgb, note = _to_rgb(image)
    except Image.DecompressionBombError as error:
        raise InvalidPicture(_too_many_pixels(name, "far too many")) from error
    except DAMAGED as error:
        raise InvalidPicture(_is_damaged(name)) from error
    return Picture(rgb, (*notes, *([note] if note else [])))


def _upright(image: Image.Image) -> tuple[Image.Image, list[str]]:
    """The picture turned as its EXIF says; one whose EXIF cannot be read stays as it is."""
    try:
        if image.getexif().get(EXIF_ORIENTATION, 1) in (0, 1):
            return image, []
        return ImageOps.exif_transpose(image), ["The picture was turned upright as its EXIF orientation says."]
    except DAMAGED:
        return image, ["The picture's EXIF data cannot be read: it was taken as it is, not turned."]


def _check_size(image: Image.Image, name: str) -> None:
    width, height = image.size
    if width < 1 or height < 1:
        raise InvalidPicture(f"{name} is {width} x {height} pixels: choose one with at least one pixel.")
    if width * height > MAX_PIXELS:
        raise InvalidPicture(_too_many_pixels(name, f"{width} x {height}"))
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise InvalidPicture(
            f"{name} is {width} x {height} pixels: the longer side may be at most {MAX_ASPECT} times the shorter, "
            "so crop it first."
        )


def _too_many_pixels(name: str, got: str) -> str:
    return f"{name} has {got} pixels: at most {MAX_PIXELS // 1_000_000} megapixels are opened, so scale it down first."


def _is_damaged(name: str) -> str:
    return f"{name} is damaged or cut short, so it cannot be decoded: save or download it again."


def _to_rgb(image: Image.Image) -> tuple[Image.Image, str | None]:
    if image.mode == "RGB":
        return image.copy(), None
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(white, layer).convert("RGB"), "Transparent parts were laid over white."
    if image.mode.startswith("I") or image.mode == "F":
        return _to_8_bits(image)
    note = "The picture's CMYK colours were converted to RGB." if image.mode == "CMYK" else None
    return image.convert("RGB"), note


def _to_8_bits(image: Image.Image) -> tuple[Image.Image, str]:
    """Greys of more than 8 bits: 16-bit ones by their full scale, others (32-bit, float) by their own range."""
    grey = np.asarray(image).astype(np.float64)
    grey = np.nan_to_num(grey, nan=0.0, posinf=0.0, neginf=0.0)
    low, high = float(grey.min()), float(grey.max())
    if image.mode != "F" and low >= 0 and high < 2**16:
        scaled, depth = grey / 257.0, "16-bit"
    else:
        scaled, depth = (grey - low) * (255.0 / max(high - low, 1e-12)), "32-bit"
    eight_bits = Image.fromarray(scaled.round().astype(np.uint8)).convert("RGB")
    return eight_bits, f"The picture's {depth} greys were scaled to 8 bits."


def _from_array(array: np.ndarray) -> Image.Image:
    shape, kind = array.shape, array.dtype.name
    if array.ndim == 3 and shape[-1] == 1:
        array = array[..., 0]
    if array.size == 0 or not (array.ndim == 2 or (array.ndim == 3 and shape[-1] in (3, 4))):
        raise InvalidPicture(f"The array has shape {shape}: give [height, width] or [height, width, 3 or 4].")
    if array.dtype == np.uint16:
        return Image.fromarray((array / 257.0).round().astype(np.uint8))
    if array.dtype == np.bool_:
        return Image.fromarray(array.astype(np.uint8) * 255)
    if array.dtype.kind == "f":
        if not (np.isfinite(array).all() and array.min() >= 0 and array.max() <= 1):
            raise InvalidPicture(f"The {kind} array holds values outside 0 to 1: scale it to 0 to 1, or give uint8.")
        return Image.fromarray((array * 255).round().astype(np.uint8))
    if array.dtype != np.uint8:
        raise InvalidPicture(f"The array is of type {kind}: give uint8, uint16, bool, or floats from 0 to 1.")
    return Image.fromarray(np.ascontiguousarray(array))
