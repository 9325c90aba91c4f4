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

from flowcut.media.picture import Picture, open_picture

MOST_HELD_BYTES = 96 * 2**20
"""Two photos of 12 megapixels and some change; a single larger picture is held alone."""


@dataclass(frozen=True, eq=False)
class Upload:
    """The file of a picture that could be opened."""

    content: bytes = field(repr=False)

    @cached_property
    def hash(self) -> str:
        """SHA-256 of the file."""
        return hashlib.sha256(self.content).hexdigest()

    @cached_property
    def notes(self) -> tuple[str, ...]:
        """What is done to it on opening, one sentence each."""
        return self.open().notes

    def open(self) -> Picture:
        """The picture, upright and RGB, the same each time; not to be kept.

        Raises:
            InvalidPicture: (a ValueError) one sentence: it is no picture, damaged, or too large.
        """
        return _opened(self)


def _bytes_of(picture: Picture) -> int:
    """What the pixels of a picture take; at most all that may be held, so that a larger one is held alone."""
    width, height = picture.size
    return min(width * height * 3, MOST_HELD_BYTES)


@cached(LRUCache(MOST_HELD_BYTES, _bytes_of), key=lambda upload: upload.hash, lock=threading.Lock())
def _opened(upload: Upload) -> Picture:
    return open_picture(upload.content)


def forget_pixels() -> None:
    """Let go of all pixels; they are decoded again where they are still needed."""
    _opened.cache_clear()
