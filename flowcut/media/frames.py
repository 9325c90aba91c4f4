"""One decoded frame of a video file becomes an upright RGB picture, as a player would show it."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import numpy as np
from PIL import Image

from flowcut.media.picture import Picture, open_picture

TURNS = {
    (0, 1, -1, 0): Image.Transpose.ROTATE_270,
    (-1, 0, 0, -1): Image.Transpose.ROTATE_180,
    (0, -1, 1, 0): Image.Transpose.ROTATE_90,
    (-1, 0, 0, 1): Image.Transpose.FLIP_LEFT_RIGHT,
    (1, 0, 0, -1): Image.Transpose.FLIP_TOP_BOTTOM,
    (0, 1, 1, 0): Image.Transpose.TRANSPOSE,
    (0, -1, -1, 0): Image.Transpose.TRANSVERSE,
}
"""By the signs of a display matrix (a, b, c, d), which shows the point (x, y) at (a x + c y, b x + d y)."""
WIDEST_PIXEL = 4
"""Pixels that are said to be wider or narrower than this are a fault of the file."""
HDR = {16: "PQ", 18: "HLG"}
"""Transfer curves of bright screens, by their number in FFmpeg and in the standard (ITU-T H.273)."""


def pixel_shape(stream: Any) -> Fraction:
    """Width of a pixel by its height: 1, if nothing else is said that can be."""
    shape = Fraction(stream.sample_aspect_ratio or 1)
    if not Fraction(1, WIDEST_PIXEL) <= shape <= WIDEST_PIXEL or abs(shape - 1) < Fraction(1, 100):
        return Fraction(1)
    return shape


def upright(frame: Any, shape: Fraction) -> Picture:
    """The frame as it is shown, and what was done to make it so.

    Args:
        frame: PyAV's.
        shape: of its pixels.
    """
    notes, image = list(_on_colours(frame)), _as_image(frame)
    if shape != 1:
        stored = image.size
        image = image.resize(_shown_size(stored, shape), Image.Resampling.BICUBIC)
        notes.append(f"The video's pixels are not square: its frames were stretched from {_by(stored)} to "
                     f"{_by(image.size)} pixels, as it says.")  # fmt: skip
    turn = _turn(frame)
    if turn is not None:
        image = image.transpose(turn)
        notes.append("The video's frames were turned upright as it says.")
    if frame.is_corrupt:
        notes.append("Some of the frames taken are damaged in the file: they were taken as they could be decoded.")
    opened = open_picture(image)
    return Picture(opened.image, (*notes, *opened.notes))


def _as_image(frame: Any) -> Image.Image:
    """RGB, or RGBA if the frame has an alpha channel."""
    if any(part.is_alpha for part in frame.format.components):
        return Image.fromarray(np.ascontiguousarray(frame.to_ndarray(format="rgba")))
    image: Image.Image = frame.to_image()
    return image


def _turn(frame: Any) -> Image.Transpose | None:
    """What brings it upright, to the nearest right angle; None: it is."""
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None or len(bytes(matrix)) < 36:
        return None
    a, b, _, c, d = struct.unpack("=9i", bytes(matrix)[:36])[:5]
    lying = abs(b) + abs(c) > abs(a) + abs(d)
    signs = tuple((value > 0) - (value < 0) for value in ((0, b, c, 0) if lying else (a, 0, 0, d)))
    return TURNS.get(signs)  # type: ignore[arg-type]  # four signs


def _on_colours(frame: Any) -> Iterator[str]:
    curve = HDR.get(int(frame.color_trc or 0))
    if curve:
        yield f"The video is made for bright screens (HDR, {curve}): its colours look paler here than on one."


def _shown_size(stored: tuple[int, int], shape: Fraction) -> tuple[int, int]:
    """The longer way: nothing that is stored is left out."""
    width, height = stored
    return (round(width * shape), height) if shape > 1 else (width, round(height / shape))


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"
