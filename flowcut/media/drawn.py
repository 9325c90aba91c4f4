"""Whether a picture could be one of the drawn scenes, which are all that the embedded model was ever shown."""

from __future__ import annotations

import numpy as np
from PIL.Image import Image

SIDE = 336
"""Width and height of every drawn scene, in pixels."""
ONE_TABLE_TOP = (0.7, 0.995)
"""Share of the pixels that have the hue of the table top: more than in photographs, less than in a picture without
colours. Of 80 scenes, saved as PNG and as JPEG of quality 75, it lay from 0.78 to 0.993; of crops of a photograph at
most 0.41."""
LEAST_GRAIN = 0.03
"""Levels of brightness by which neighbours differ in the smoothest fiftieth of a scene: a screen's picture is flat."""
_BIN, _BLOCK = 0.02, 8


def looks_drawn(image: Image) -> bool:
    """Whether it has a drawn scene's size, one table top under coloured things, and the grain that is all over them.

    A guess from the look alone, for a warning: it is not known of which scene, nor that it truly is one.
    """
    if image.size != (SIDE, SIDE):
        return False
    pixels = np.asarray(image.convert("RGB"), np.float64)
    least, most = ONE_TABLE_TOP
    return least <= _commonest_hue(pixels) <= most and _least_grain(pixels) >= LEAST_GRAIN


def _commonest_hue(pixels: np.ndarray) -> float:
    """Share of the pixels [side, side, 3] whose shares of red and of green lie in the fullest square of 0.04 by 0.04.

    Light and shadow change all three channels together, and so neither share.
    """
    shares = pixels[..., :2] / (pixels.sum(axis=2, keepdims=True) + 1e-6)
    bins = round(1 / _BIN) + 2
    places = (shares / _BIN).astype(int) @ (bins, 1)
    count = np.bincount(places.ravel(), minlength=bins * bins).reshape(bins, bins)
    squares = count[:-1, :-1] + count[1:, :-1] + count[:-1, 1:] + count[1:, 1:]
    return float(squares.max() / places.size)


def _least_grain(pixels: np.ndarray) -> float:
    """Of blocks of 8 x 8 pixels, the second percentile of how much brightness differs from that of the neighbours."""
    grey = pixels.mean(axis=2)
    grain = np.abs(grey[1:, 1:] - grey[:-1, 1:] - grey[1:, :-1] + grey[:-1, :-1])
    blocks = (SIDE - 1) // _BLOCK
    whole = grain[: blocks * _BLOCK, : blocks * _BLOCK].reshape(blocks, _BLOCK, blocks, _BLOCK)
    return float(np.percentile(whole.mean(axis=(1, 3)), 2))
