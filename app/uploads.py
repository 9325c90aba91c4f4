"""Pictures from outside, kept as the files they came as: a photo is 4 MB as a file and 36 MB as pixels.

Pixels are decoded when a model or a figure needs them. Of all visitors' pixels MOST_HELD_BYTES stay for the next look,
one copy of each picture, whoever uploaded it.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from dataclasses import dataclass, field

from PIL.Image import Image

from flowcut.images import open_picture

MOST_HELD_BYTES = 96 * 2**20
"""Two photos of 12 megapixels and some change; a single larger picture is held alone."""


@dataclass(frozen=True, eq=False)
class Upload:
    """The file of a picture that could be opened."""

    content: bytes = field(repr=False)
    key: str = field(init=False)
    """SHA-256 of the file."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "key", hashlib.sha256(self.content).hexdigest())

    @property
    def image(self) -> Image:
        """Upright RGB pixels, the same at every look; not to be kept."""
        image = _held.get(self.key)
        if image is None:
            image = open_picture(self.content).image
            _held.put(self.key, image)
        return image


class _Held:
    """The pixels that were looked at last; safe between threads."""

    def __init__(self) -> None:
        self._images: OrderedDict[str, Image] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: str) -> Image | None:
        with self._lock:
            if key in self._images:
                self._images.move_to_end(key)
            return self._images.get(key)

    def put(self, key: str, image: Image) -> None:
        with self._lock:
            self._images[key] = image
            self._images.move_to_end(key)
            while len(self._images) > 1 and self.bytes > MOST_HELD_BYTES:
                self._images.popitem(last=False)

    @property
    def bytes(self) -> int:
        return sum(image.width * image.height * 3 for image in self._images.values())

    def clear(self) -> None:
        with self._lock:
            self._images.clear()


_held = _Held()


def forget_pixels() -> None:
    """Let go of all pixels: whoever still looks at a picture has it decoded again."""
    _held.clear()
