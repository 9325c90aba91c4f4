"""Which decoders a stranger's file is handed to, and what a file holds beside the picture that is used."""

from __future__ import annotations

import io
import re
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from typing import Any

from PIL import Image, UnidentifiedImageError, features

from flowcut.errors import InvalidPicture, UnknownFormat
from flowcut.media.png import without_metadata

MAX_PIXELS = 80_000_000
"""A picture is decoded whole: 80 megapixels take 240 MB."""
FORMATS = "PNG, JPEG, WebP, AVIF, HEIC, GIF, BMP or TIFF"
USUAL = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
"""Pillow's names of decoders that it always has. Beside AVIF and HEIF no other is let near a stranger's file."""
AVIF_BRANDS = (b"avif", b"avis")
HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs")
PICTURE_BRANDS = (*AVIF_BRANDS, *HEIC_BRANDS, b"mif1", b"mif2", b"msf1")
"""Of files that begin like an MP4 and are pictures; the last ones say so and no more."""
TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
# Everything that Pillow's decoders are known to raise on damaged files.
DAMAGED = (
    OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, ArithmeticError, MemoryError, RuntimeError,
    AttributeError, AssertionError, struct.error, zlib.error,
)  # fmt: skip
NOT_KNOWN = re.compile(r"unsupported|not supported|not available|unrecognized|unknown", re.IGNORECASE)
"""In what Pillow says of an intact file of a kind that it does not read."""
REDUCED, SUBFILE_TYPE = 1, 254
"""Of a TIFF: the tag that says of what kind an image in it is, and the bit for a smaller copy of another."""


def identify(content: bytes, name: str) -> Image.Image:
    """Open without decoding: the size is known before any memory is spent on pixels.

    Raises:
        InvalidPicture: (a ValueError) one sentence: it is no picture, of a kind that is not read here, or damaged.
    """
    kinds = (*USUAL, *_of_box_file(content, name))
    with sentences(name):
        try:
            return Image.open(io.BytesIO(without_metadata(content)), formats=kinds)
        except UnidentifiedImageError as error:
            if content.startswith(TIFF_STARTS):
                raise InvalidPicture(_is_not_known(name, "its kind of TIFF")) from error
            raise UnknownFormat(f"{name} is not a picture that can be read: choose a {FORMATS} file.") from error


@contextmanager
def sentences(name: str) -> Iterator[None]:
    """Whatever Pillow raises inside becomes one sentence; what it warns of is no matter of the user's.

    Raises:
        InvalidPicture: (a ValueError) the picture is damaged, too large, or of a kind that is not read here.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the size has its own limit and sentence
            warnings.filterwarnings("ignore", module=r"PIL\.")
            yield
    except InvalidPicture:
        raise
    except Image.DecompressionBombError as error:
        raise InvalidPicture(too_many_pixels(name, "far too many")) from error
    except DAMAGED as error:
        if isinstance(error, OSError) and NOT_KNOWN.search(str(error)):
            raise InvalidPicture(_is_not_known(name, " ".join(str(error).split())[:80])) from error
        raise InvalidPicture(
            f"{name} is damaged or cut short, so it cannot be decoded: save or download it again."
        ) from error


def too_many_pixels(name: str, got: str) -> str:
    """The sentence on a picture of so many pixels."""
    return f"{name} has {got} pixels: at most {MAX_PIXELS // 1_000_000} megapixels are opened, so scale it down first."


def _is_not_known(name: str, what: str) -> str:
    return f"{name} is coded in a way that is not read here ({what}): save it as PNG or JPEG."


def _of_box_file(content: bytes, name: str) -> tuple[str, ...]:
    """The decoders of AVIF and HEIC, if this is such a file.

    Raises:
        InvalidPicture: (a ValueError) its decoder is not installed.
    """
    if content[4:8] != b"ftyp" or content[8:12] not in PICTURE_BRANDS:
        return ()
    length = max(16, min(int.from_bytes(content[:4], "big"), 400))
    brands = [content[at : at + 4] for at in range(8, length, 4)]
    if any(brand in AVIF_BRANDS for brand in brands):
        if not features.check("avif"):
            raise InvalidPicture(_not_installed(name, "an AVIF", "a Pillow that reads it", "'pillow>=11.3'"))
        return ("AVIF",)
    if not _reads_heic():
        raise InvalidPicture(_not_installed(name, "a HEIC", "pillow-heif", "'flowcut-lens[heic]'"))
    return ("HEIF",)


def _not_installed(name: str, kind: str, what: str, wanted: str) -> str:
    return f"{name} is {kind} picture, and {what} is not installed: run pip install {wanted}, or save it as JPEG."


@cache
def _reads_heic() -> bool:
    """Have Pillow read HEIC, where pillow-heif is installed."""
    if find_spec("pillow_heif") is None:
        return False
    try:
        from pillow_heif import register_heif_opener
    except ImportError:  # built for another machine
        return False
    register_heif_opener()
    return True


def on_what_is_beside(image: Image.Image) -> list[str]:
    """A sentence on the other pictures of a file, if it holds any: which one of them is used."""
    try:
        count = int(getattr(image, "n_frames", 1))
    except DAMAGED:
        return ["The file holds more than one picture, and those behind the first cannot be read."]
    notes = _on_previews(image)
    if count < 2:
        return notes
    place = image.tell()
    what, first = _plural(image.format, count)
    which = first if place == 0 or image.format == "HEIF" else f"number {place + 1}"
    return [f"{what}: {which} was used.", *notes]


def _plural(file_format: str | None, count: int) -> tuple[str, str]:
    """What a file of several pictures is, and what its first one is called."""
    match file_format:
        case "MPO":
            return f"The file holds {count} pictures, as telephones write them", "the first one"
        case "TIFF":
            return f"The file has {count} pages", "the first one"
        case "HEIF":
            return f"The file holds {count} pictures", "the main one"
        case _:
            return f"The picture is an animation of {count} frames", "the first one"


def _on_previews(image: Any) -> list[str]:
    """The raw files of cameras are TIFFs that begin with a small copy."""
    kind = getattr(image, "tag_v2", {}).get(SUBFILE_TYPE, 0)
    if not (isinstance(kind, int) and kind & REDUCED and image.tell() == 0):
        return []
    width, height = image.size
    return [f"The file's first picture is a smaller copy of {width} x {height} pixels, as raw files of cameras begin."]
