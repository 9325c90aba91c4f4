"""Pictures from outside, kept as the files they came as: a photo is 4 MB as a file and 36 MB as pixels.

Pixels are decoded when a model or a figure needs them. Of all visitors' pixels MOST_HELD_BYTES stay for the next look,
one copy of each picture, whoever uploaded it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cached_property

from PIL.Image import Image

from flowcut.media.picture import open_picture
from flowcut_lens.app.jobs.recent import Recent

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
        image = _held.get(self.key)
        if image is None:
            image = open_picture(self.content).image
            _held.put(self.key, image)
        return image


def _bytes_of(image: Image) -> int:
    return image.width * image.height * 3


_held: Recent[Image] = Recent(MOST_HELD_BYTES, _bytes_of)


def forget_pixels() -> None:
    """Let go of all pixels: whoever still looks at a picture has it decoded again."""
    _held.clear()
