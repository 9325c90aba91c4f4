"""The mask as a picture, and numbers on patches as one: on the ORIGINAL picture, whatever its aspect."""

from __future__ import annotations

import numpy as np
from PIL import Image

from flowcut.record import Geometry

CUT_BRIGHTNESS = 0.25
"""How much of a cut patch shows through; the rest is white."""
HEAT = (255, 120, 0)
HEAT_COVERS = 0.85
"""How much of the picture the strongest heat covers."""
HATCH_PERIOD = 12
"""Original pixels between the lines over what the model never saw."""


def mask_picture(image: Image.Image, geometry: Geometry, kept_patch_ids: np.ndarray) -> Image.Image:
    """The original picture with the kept patches as they are, the cut ones faded to white, the unseen hatched.

    Args:
        image: RGB, in the original size that `geometry` knows.
        kept_patch_ids: int64 [T], patches of this one picture.
    """
    patch_of_pixel = patch_at_each_pixel(geometry)
    kept = np.isin(patch_of_pixel, kept_patch_ids)
    pixels = np.asarray(image.convert("RGB"), dtype=np.float64)
    faded = 255 - (255 - pixels) * CUT_BRIGHTNESS
    shown = np.where(kept[..., None], pixels, faded)
    row, column = np.indices(patch_of_pixel.shape)
    lines = (row + column) % HATCH_PERIOD < HATCH_PERIOD // 4
    shown[(patch_of_pixel < 0) & lines] = 96
    return Image.fromarray(shown.round().astype(np.uint8))


def heat_picture(
    image: Image.Image, geometry: Geometry, patch_ids: np.ndarray, values: np.ndarray, peak: float
) -> Image.Image:
    """The picture in grey, each patch the more orange the higher its value; patches without a value faded to white.

    Args:
        image: RGB, in the original size that `geometry` knows.
        patch_ids: int64 [T], the patches that have a value.
        values: [T], at least 0.
        peak: the value that is shown as full orange.
    """
    strength = np.full(geometry.grid_rows * geometry.grid_cols + 1, np.nan)  # the last entry: no patch there
    strength[patch_ids] = np.clip(values / peak, 0, 1) if peak > 0 else 0.0
    of_pixel = strength[patch_at_each_pixel(geometry)][..., None]
    grey = np.asarray(image.convert("L"), dtype=np.float64)[..., None]
    heated = grey + (np.array(HEAT) - grey) * HEAT_COVERS * of_pixel
    faded = 255 - (255 - grey) * CUT_BRIGHTNESS
    shown = np.where(np.isnan(of_pixel), faded, heated)
    return Image.fromarray(shown.round().astype(np.uint8))


def patch_at_each_pixel(geometry: Geometry) -> np.ndarray:
    """int64 [original height, original width], the patch that shows each pixel's centre; -1 where none does."""
    x = (np.arange(geometry.original_width) + 0.5) * geometry.resized_width / geometry.original_width
    y = (np.arange(geometry.original_height) + 0.5) * geometry.resized_height / geometry.original_height
    column = np.floor((x - geometry.crop_left) / geometry.patch).astype(np.int64)
    row = np.floor((y - geometry.crop_top) / geometry.patch).astype(np.int64)
    seen = ((row >= 0) & (row < geometry.grid_rows))[:, None] & ((column >= 0) & (column < geometry.grid_cols))[None]
    return np.where(seen, row[:, None] * geometry.grid_cols + column[None], -1)
