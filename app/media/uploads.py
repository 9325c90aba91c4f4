"""Pictures from outside, kept as the files they came as: a photo is 4 MB as a file and 36 MB as pixels.

Pixels are decoded when a model or a figure needs them. Of all visitors' pixels MOST_HELD_BYTES stay for the next use,
one copy of each picture, whoever uploaded it.
"""

from __future__ import annotations

import hashlib
import threading
from dataclasses import dataclass, field
from functools import cached_property

from cachetools import LRUCache, cached
from PIL.Image import Image

from flowcut.media.picture import open_picture

MOST_HELD_BYTES = 96 * 2**20
"""Two photos of 12 megapixels and some change; a single larger picture is held alone."""


@dataclass(frozen=True, eq=False)
class Upload:
    """The file of a picture that could be opened."""

    content: bytes = field(repr=False)

    @cached_property
    def key(self) -> str:
        """SHA-256 of the file."""
        return hashlib.sha256(self.content).hexdigest()

    @property
    def image(self) -> Image:
        """Upright RGB pixels, the same at every look; not to be kept."""
        return decoded(self)


def _bytes_of(image: Image) -> int:
    """What the pixels of a picture take; at most all that may be held, so that a larger one is held alone."""
    return min(image.width * image.height * 3, MOST_HELD_BYTES)


@cached(LRUCache(MOST_HELD_BYTES, _bytes_of), key=lambda upload: upload.key, lock=threading.Lock())
def decoded(upload: Upload) -> Image:
    """The pixels of an upload."""
    return open_picture(upload.content).image


def forget_pixels() -> None:
    """Let go of all pixels; they are decoded again where they are still needed."""
    decoded.cache_clear()
