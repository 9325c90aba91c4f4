"""Signed distance (pixels, negative inside) of every shape, in the object's own frame: x right, y down, radius 1
encloses it.

Distances make anti-aliasing, bevels, soft shadows and exact masks one subtraction each. The star and triangle
formulas are the standard closed forms for regular polygons folded into one sector.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.floating]


def _box(x: Field, y: Field, half_width: float, half_height: float, corner: float) -> Field:
    dx, dy = np.abs(x) - (half_width - corner), np.abs(y) - (half_height - corner)
    outside = np.hypot(np.maximum(dx, 0), np.maximum(dy, 0))
    return outside + np.minimum(np.maximum(dx, dy), 0) - corner


def circle(x: Field, y: Field) -> Field:
    return np.hypot(x, y) - 1.0


def ring(x: Field, y: Field) -> Field:
    return np.abs(np.hypot(x, y) - 0.74) - 0.26


def square(x: Field, y: Field) -> Field:
    return _box(x, y, 0.76, 0.76, 0.1)


def cross(x: Field, y: Field) -> Field:
    return np.minimum(_box(x, y, 0.95, 0.31, 0.07), _box(x, y, 0.31, 0.95, 0.07))


def card(x: Field, y: Field) -> Field:
    return _box(x, y, 0.64, 0.8, 0.1)


def chart(x: Field, y: Field) -> Field:
    return _box(x, y, 0.76, 0.64, 0.05)


def triangle(x: Field, y: Field) -> Field:
    """Equilateral, pointing up, corners rounded; its corners lie on the unit circle."""
    rounding, inradius = 0.08, 0.5
    sides = (np.pi / 2, np.pi / 2 + 2 * np.pi / 3, np.pi / 2 - 2 * np.pi / 3)
    planes = [x * np.cos(angle) + y * np.sin(angle) - (inradius - rounding) for angle in sides]
    return np.maximum.reduce(planes).astype(np.float32) - rounding


def star(x: Field, y: Field) -> Field:
    """Five points on the unit circle, the notches between them at radius 0.45."""
    sector = np.pi / 5
    angle = np.abs((np.arctan2(x, -y) + sector) % (2 * sector) - sector)
    radius = np.hypot(x, y)
    fold_x, fold_y = radius * np.cos(angle), radius * np.sin(angle)
    tip, notch = np.array([1.0, 0.0]), 0.45 * np.array([np.cos(sector), np.sin(sector)])
    edge = notch - tip
    normal = np.array([edge[1], -edge[0]]) / np.hypot(*edge)
    return ((fold_x - tip[0]) * normal[0] + (fold_y - tip[1]) * normal[1]).astype(np.float32)


SIGNED_DISTANCE: dict[str, Callable[[Field, Field], Field]] = {
    "circle": circle,
    "square": square,
    "triangle": triangle,
    "star": star,
    "ring": ring,
    "cross": cross,
    "card": card,
    "chart": chart,
}
