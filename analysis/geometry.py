"""Patches and pixels of the ORIGINAL picture: which patch is where, and what the model never saw.

The encoder sees a square cut out of the resized picture. Patches may lie partly or wholly on padding, outside the
picture; some of the picture may lie outside the square. `flowcut.records.vision.Geometry` holds the numbers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from flowcut.records.vision import Geometry

if TYPE_CHECKING:
    from flowcut.records.vision import FlowRecord

Box = tuple[float, float, float, float]
"""Left, top, right, bottom in original pixels."""

LEAST_STRIP = 1.0
"""Strips of picture narrower than this many original pixels are rounding of the resize, not cropping."""


def geometry_of(record: FlowRecord) -> Geometry:
    """The record's geometry.

    Raises:
        ValueError: the record was made from pixel values alone and knows no picture.
    """
    if record.geometry is None:
        raise ValueError(
            "This record knows no picture (it was made from pixel values): give a run made by flowcut.ask."
        )
    return record.geometry


def grid_box(geometry: Geometry) -> Box:
    """The patch grid on the original picture; reaches outside it where the encoder saw padding."""
    boxes = geometry.boxes()
    return float(boxes[0, 0]), float(boxes[0, 1]), float(boxes[-1, 2]), float(boxes[-1, 3])


def canvas_box(geometry: Geometry) -> Box:
    """The smallest box that holds both the full picture and the full grid."""
    left, top, right, bottom = grid_box(geometry)
    return (
        min(left, 0.0),
        min(top, 0.0),
        max(right, float(geometry.original_width)),
        max(bottom, float(geometry.original_height)),
    )


def picture_share(geometry: Geometry) -> np.ndarray:
    """float64 [N], the share of each patch's area that lies on the picture: 1 inside, 0 for padding alone."""
    boxes = geometry.boxes()
    width = np.minimum(boxes[:, 2], geometry.original_width) - np.maximum(boxes[:, 0], 0)
    height = np.minimum(boxes[:, 3], geometry.original_height) - np.maximum(boxes[:, 1], 0)
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    share: np.ndarray = np.clip(width, 0, None) * np.clip(height, 0, None) / area
    return share


def unseen_boxes(geometry: Geometry) -> list[Box]:
    """What of the original picture the crop left out, as boxes that do not overlap."""
    return strips_around(geometry.seen_box(), geometry.original_width, geometry.original_height)


def strips_around(box: Box, width: float, height: float) -> list[Box]:
    """What of a picture of this size lies outside a box, in up to four boxes that do not overlap."""
    left, top, right, bottom = box
    width, height = float(width), float(height)
    strips = [
        (0.0, 0.0, left, height),
        (right, 0.0, width, height),
        (left, 0.0, right, top),
        (left, bottom, right, height),
    ]
    return [strip for strip in strips if strip[2] - strip[0] >= LEAST_STRIP and strip[3] - strip[1] >= LEAST_STRIP]
