"""Pictures in: whatever a person hands over becomes an upright RGB picture, or one sentence that says why not."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

from flowcut.errors import InvalidPicture
from flowcut.media.arrays import as_array, from_array
from flowcut.media.colours import is_deep, to_rgb
from flowcut.media.decoders import (
    DAMAGED,
    FORMATS,
    MAX_PIXELS,
    identify,
    on_what_is_beside,
    sentences,
    too_many_pixels,
)
from flowcut.media.source import open_regular, plain, read_bounded, spoken_name

MAX_ASPECT = 50
"""The encoder's resize makes the shorter side 336 px: at 50 to 1 the longer one is then 16,800 px."""
EXIF_ORIENTATION = 0x0112
TURNS = range(2, 9)
"""EXIF orientations that differ from what is stored."""


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
    """Open a picture from a path, an http(s) or data URL, bytes, an open file, a PIL image, an array or a tensor.

    Arrays are [height, width] or [height, width, 1, 3 or 4]: uint8, uint16, bool, or floats from 0 to 1; tensors also
    [1, 3 or 4, height, width]. A row of `datasets` is opened by its bytes or path, a Picture is given back.
    Transparency is laid over white, the first frame stands for an animation and the first page for a scan, EXIF
    orientation is applied, 16 bits become 8, dark ones stretched, CMYK becomes RGB; each is noted.

    Raises:
        InvalidPicture: (a ValueError) one sentence: what was got, what is allowed, what to do.
    """
    source = plain(source, "picture")
    if isinstance(source, Picture):
        return source
    array = as_array(source)
    if array is not None:
        image, notes = from_array(array, tuple(getattr(source, "shape", array.shape)))
        return _upright_rgb(image, "The picture", notes)
    if isinstance(source, Image.Image):
        _check_size(source, "The picture")
        _check_open(source)
        return _upright_rgb(source, "The picture")
    name, content = _read(source)
    if not content:
        raise InvalidPicture(f"{name} is empty (0 bytes): choose a {FORMATS} file.")
    return _upright_rgb(identify(content, name), name)


def _read(source: Any) -> tuple[str, bytes]:
    """The name to use in a sentence, and the content."""
    if isinstance(source, bytes | bytearray | memoryview):
        return "The picture", bytes(source)
    if isinstance(source, str | os.PathLike):
        path = Path(source)
        with open_regular(path, "picture", f"a {FORMATS} file") as file:
            name = spoken_name(file, str(path))
            return name, read_bounded(file, name)
    if hasattr(source, "read"):
        name = spoken_name(source, "The picture")
        return name, read_bounded(source, name)
    kind = type(source).__name__
    raise InvalidPicture(
        f"The picture is a {kind}: give a path, a URL, bytes, an open file, a PIL image, an array or a tensor."
    )


def _check_open(image: Image.Image) -> None:
    """Pillow reads a file when its pixels are first needed, and closes it with its `with`."""
    try:
        image.load()
        image.getpixel((0, 0))
    except DAMAGED as error:
        file = getattr(image, "fp", None)
        if file is None or file.closed:
            raise InvalidPicture(
                "The picture is a PIL image whose file was closed before it was read: call its load() before that, or "
                "give the path."
            ) from error


def _upright_rgb(image: Image.Image, name: str, done: list[str] | None = None) -> Picture:
    """The picture, upright and RGB; `done`: what was noted before."""
    _check_size(image, name)
    with sentences(name):
        notes = [*(done or []), *on_what_is_beside(image)]
        file_format, deep = image.format, is_deep(image)
        held = _orientation(image) if file_format == "TIFF" else 1  # of a PNG it would decode, and hide that it failed
        image.load()
        image, turned = _upright(image, held)
        rgb, changed = to_rgb(image, file_format, deep)
    return Picture(rgb, (*notes, *turned, *changed))


def _orientation(image: Image.Image) -> int | None:
    """What the EXIF data say of how the picture was held; None: they cannot be read."""
    try:
        return int(image.getexif().get(EXIF_ORIENTATION, 1))
    except DAMAGED:
        return None


def _upright(image: Image.Image, held: int | None) -> tuple[Image.Image, list[str]]:
    """The picture turned as its EXIF says; one whose EXIF cannot be read stays as it is.

    Args:
        held: what the EXIF said before the picture was decoded: Pillow turns a TIFF by itself, and takes that away.
    """
    unread = image, ["The picture's EXIF data cannot be read: it was taken as it is, not turned."]
    now = _orientation(image)
    if held is None or now is None:
        return unread
    if held not in TURNS and now not in TURNS:
        return image, []
    try:
        upright = ImageOps.exif_transpose(image) if now in TURNS else image
    except DAMAGED:
        return unread
    return upright, ["The picture was turned upright as its EXIF orientation says."]


def _check_size(image: Image.Image, name: str) -> None:
    width, height = image.size
    if width < 1 or height < 1:
        raise InvalidPicture(f"{name} is {width} x {height} pixels: choose one with at least one pixel.")
    if width * height > MAX_PIXELS:
        raise InvalidPicture(too_many_pixels(name, f"{width} x {height}"))
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise InvalidPicture(
            f"{name} is {width} x {height} pixels: the longer side may be at most {MAX_ASPECT} times the shorter, "
            "so crop it first."
        )
