"""Geometry: a square painted on the original picture lights the patches that the model sees it in, and no others."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from flowcut.records.vision import Geometry
from flowcut_lens.analysis.geometry import Box, canvas_box, grid_box, picture_share, unseen_boxes
from tests.analysis import synthetic

SIZES = [(336, 336), (640, 480), (480, 640), (1000, 337), (500, 1999), (97, 101), (4000, 900)]


def padded_geometry(width: int, height: int) -> Geometry:
    """The long side to the input size, the rest padded on both sides."""
    size = 336
    scale = size / max(width, height)
    resized = max(1, round(width * scale)), max(1, round(height * scale))
    return Geometry(
        width, height, *resized, -((size - resized[0]) // 2), -((size - resized[1]) // 2), size, size, 14, 24, 24
    )


def patches_in(geometry: Geometry, box: Box) -> np.ndarray:
    """Ids of the patches that share more than an edge with a box in original pixels."""
    left, top, right, bottom = box
    boxes = geometry.boxes()
    across = (boxes[:, 0] < right) & (boxes[:, 2] > left)
    return np.flatnonzero(across & (boxes[:, 1] < bottom) & (boxes[:, 3] > top))


def seen_by_model(picture: Image.Image, geometry: Geometry) -> np.ndarray:
    """[rows, cols, 14 * 14], what each patch of the encoder's input shows."""
    resized = picture.resize((geometry.resized_width, geometry.resized_height), Image.Resampling.BOX)
    left, top, size = geometry.crop_left, geometry.crop_top, geometry.input_width
    pixels = np.asarray(resized.crop((left, top, left + size, top + size)))  # crop pads with zeros outside
    return pixels.reshape(24, 14, 24, 14).transpose(0, 2, 1, 3).reshape(24, 24, -1)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("make", [synthetic.square_geometry, padded_geometry])
def test_painted_square(size: tuple[int, int], make: type) -> None:
    geometry = make(*size)
    width, height = size
    random = np.random.default_rng(width * height)
    for _ in range(5):
        side = max(2, int(min(size) * random.uniform(0.05, 0.3)))
        left, top = int(random.integers(0, width - side + 1)), int(random.integers(0, height - side + 1))
        picture = Image.new("L", size, 0)
        picture.paste(255, (left, top, left + side, top + side))
        lit = np.flatnonzero(seen_by_model(picture, geometry).max(-1).ravel() > 0)
        found = patches_in(geometry, (left, top, left + side, top + side))
        # Resizing spreads the square's edge over at most one pixel of the encoder's input.
        pixel = max(width / geometry.resized_width, height / geometry.resized_height) + 1e-6
        wider = patches_in(geometry, (left - pixel, top - pixel, left + side + pixel, top + side + pixel))
        narrower = patches_in(geometry, (left + pixel, top + pixel, left + side - pixel, top + side - pixel))
        if side > 2 * pixel:
            assert set(narrower) <= set(lit)
        assert set(lit) <= set(wider)
        assert set(narrower) <= set(found) <= set(wider) or side <= 2 * pixel


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("make", [synthetic.square_geometry, padded_geometry])
def test_the_grids_box_holds_every_patch_and_no_more(size: tuple[int, int], make: type) -> None:
    geometry = make(*size)
    boxes = geometry.boxes()
    assert grid_box(geometry) == pytest.approx((*boxes[:, :2].min(axis=0), *boxes[:, 2:].max(axis=0)))


@pytest.mark.parametrize("size", SIZES)
def test_seen_and_unseen_make_up_the_picture(size: tuple[int, int]) -> None:
    geometry = synthetic.square_geometry(*size)
    left, top, right, bottom = geometry.seen_box()
    unseen = unseen_boxes(geometry)
    areas = sum((x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in unseen) + (right - left) * (bottom - top)
    assert areas == pytest.approx(size[0] * size[1], rel=0.02)  # strips below one pixel are rounding
    assert canvas_box(geometry) == pytest.approx((0, 0, *size), abs=1)
    pixel = max(
        width / side for width, side in zip(size, (geometry.resized_width, geometry.resized_height), strict=True)
    )
    for x0, y0, x1, y1 in unseen:
        inner = (x0 + pixel, y0 + pixel, x1 - pixel, y1 - pixel)
        assert min(x1 - x0, y1 - y0) <= 2 * pixel or not len(patches_in(geometry, inner))


def test_padding_is_no_part_of_the_picture() -> None:
    geometry = padded_geometry(336, 168)
    share = picture_share(geometry).reshape(24, 24)
    assert (share[:6] == 0).all()
    assert (share[6:18] == 1).all()
    assert (share[18:] == 0).all()
    assert unseen_boxes(geometry) == []
    assert canvas_box(geometry) == (0, -84, 336, 252)


def test_a_square_picture_has_nothing_unseen() -> None:
    assert unseen_boxes(synthetic.square_geometry(336, 336)) == []
