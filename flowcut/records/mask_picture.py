"""The mask as a picture, and numbers on patches as one: on the ORIGINAL picture, whatever its aspect."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image

from flowcut.records.geometry import WHOLE_VIEWS
from flowcut.records.vision import FlowRecord, Geometry

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
    return assembled_mask(image, [geometry], [kept_patch_ids])


def record_masks(image: Image.Image, record: FlowRecord) -> dict[str, Image.Image]:
    """The masks of a record of one picture by name: `mask`, and that of a tile which shows all of it, `mask-base` or
    `mask-thumbnail`; none where it is not known how its patches lie on the picture."""
    views = np.array([geometry.view for geometry in record.geometries], dtype=object)
    rows = {"mask": ~np.isin(views, WHOLE_VIEWS), **{f"mask-{view}": views == view for view in WHOLE_VIEWS}}
    masks = {}
    for name, chosen in rows.items():
        places = np.flatnonzero(chosen)
        if len(places):
            geometries = [record.geometries[place] for place in places]
            masks[name] = assembled_mask(image, geometries, list(record.kept_patch_ids[places]))
    return masks


def video_masks(frames: Sequence[Image.Image], record: FlowRecord) -> dict[str, Image.Image]:
    """The masks of a record of one video by name, `mask-frame-1` and on; a slice of frames is shown on its first."""
    step = math.ceil(len(frames) / record.batch)
    return {
        f"mask-{geometry.view.replace(' ', '-')}": mask_picture(
            frames[row * step], geometry, record.kept_patch_ids[row]
        )
        for row, geometry in enumerate(record.geometries)
    }


def assembled_mask(image: Image.Image, geometries: Sequence[Geometry], kept: Sequence[np.ndarray]) -> Image.Image:
    """`mask_picture` of several tiles of one picture: what any of them kept is kept, what none saw is unseen."""
    patches = [patch_at_each_pixel(geometry) for geometry in geometries]
    kept_pixels = np.any([np.isin(patch, ids) for patch, ids in zip(patches, kept, strict=True)], axis=0)
    unseen = np.all([patch < 0 for patch in patches], axis=0)
    pixels = np.asarray(image.convert("RGB"), dtype=np.float64)
    faded = 255 - (255 - pixels) * CUT_BRIGHTNESS
    shown = np.where((kept_pixels & ~unseen)[..., None], pixels, faded)
    row, column = np.indices(unseen.shape)
    lines = (row + column) % HATCH_PERIOD < HATCH_PERIOD // 4
    shown[unseen & lines] = 96
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
    return assembled_heat(image, [geometry], [patch_ids], [values], peak)


def assembled_heat(
    image: Image.Image,
    geometries: Sequence[Geometry],
    patch_ids: Sequence[np.ndarray],
    values: Sequence[np.ndarray],
    peak: float,
) -> Image.Image:
    """`heat_picture` of several tiles of one picture, each with its patches and their values, on one scale."""
    strengths = []
    for geometry, ids, own in zip(geometries, patch_ids, values, strict=True):
        n_patches = geometry.grid_rows * geometry.grid_cols
        strength = np.full(n_patches + 1, np.nan, np.float32)  # the last entry: no patch there
        strength[ids] = np.clip(own / peak, 0, 1) if peak > 0 else 0.0
        strengths.append(strength[patch_at_each_pixel(geometry)])
    of_pixel = np.fmax.reduce(strengths)  # NaN where no tile has a value
    has_value = np.isfinite(of_pixel)
    covered = np.where(has_value, 255 * HEAT_COVERS * of_pixel, 0).round().astype(np.uint8)
    grey = image.convert("L").convert("RGB")
    heated = Image.composite(Image.new("RGB", grey.size, HEAT), grey, Image.fromarray(covered))
    faded = Image.blend(Image.new("RGB", grey.size, "white"), grey, CUT_BRIGHTNESS)
    return Image.composite(heated, faded, Image.fromarray(has_value))


def patch_at_each_pixel(geometry: Geometry) -> np.ndarray:
    """int64 [original height, original width], the patch that shows each pixel's centre; -1 where none does."""
    x = (np.arange(geometry.original_width) + 0.5) * geometry.resized_width / geometry.original_width
    y = (np.arange(geometry.original_height) + 0.5) * geometry.resized_height / geometry.original_height
    column = np.floor((x - geometry.crop_left) / geometry.patch).astype(np.int64)
    row = np.floor((y - geometry.crop_top) / geometry.patch).astype(np.int64)
    seen = ((row >= 0) & (row < geometry.grid_rows))[:, None] & ((column >= 0) & (column < geometry.grid_cols))[None]
    return np.where(seen, row[:, None] * geometry.grid_cols + column[None], -1)
