"""Draw a scene from its seed: table top, soft shadows, bevelled and lit objects, printed cards, and exact masks."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from flowcut_lens.scenes.backgrounds import background
from flowcut_lens.scenes.shapes import SIGNED_DISTANCE
from flowcut_lens.scenes.world import (
    MIN_VISIBLE,
    MIN_VISIBLE_DEFAULT,
    SIDE,
    Placement,
    Scene,
    SceneObject,
    sample_placements,
)

PAINT: dict[str, tuple[float, float, float]] = {
    "red": (0.80, 0.12, 0.12),
    "orange": (0.93, 0.47, 0.07),
    "yellow": (0.95, 0.82, 0.16),
    "green": (0.16, 0.62, 0.24),
    "blue": (0.13, 0.32, 0.82),
    "purple": (0.47, 0.18, 0.66),
    "pink": (0.95, 0.52, 0.70),
    "white": (0.94, 0.94, 0.93),
}
"""Linear mix of red, green and blue (0..1) before shading; each object varies by a few hundredths."""

_LIGHT = np.array([-0.45, -0.55, 0.70], np.float32) / np.float32(np.sqrt(0.45**2 + 0.55**2 + 0.70**2))
_HALFWAY = (_LIGHT + np.array([0, 0, 1], np.float32)) / np.linalg.norm(_LIGHT + np.array([0, 0, 1], np.float32))
_SHADOW_SHIFT = (4.0, 6.0)
_SHADOW_BLUR = 9.0
_LAYOUT_TRIES = 50


def draw(seed: int, without: int | None = None) -> Scene:
    """The scene of a seed: the same picture, objects and masks on every machine.

    Args:
        seed: of the scene.
        without: leave this object out, by its place in the whole scene's `objects`: every random number is drawn as
            before, so that nothing else changes but what it hid and shaded.

    Raises:
        ValueError: the seed is not an integer from 0 to 2**63 - 1, or the scene has no such object.
    """
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or not 0 <= seed < 2**63:
        raise ValueError(f"A scene's seed is an integer from 0 to 2**63 - 1; got {seed!r}. Pass for example 7.")
    rng = np.random.default_rng(int(seed))
    return compose(int(seed), background(rng), rng, without=without)


def compose(
    seed: int,
    canvas: NDArray[np.float32],
    rng: np.random.Generator,
    extra_cards: float = 0.0,
    without: int | None = None,
) -> Scene:
    """Lay random objects on a table top ([336, 336, 3], 0..1; drawn over in place) and say what lies where.

    `without` is as in `draw`.
    """
    placements, masks = _visible_layout(rng, extra_cards)
    left_out = None if without is None else _place_of(without, placements)
    for place, placement in enumerate(placements):
        _paint(canvas.copy() if place == left_out else canvas, placement, rng)
    if left_out is not None:
        placements = [*placements[:left_out], *placements[left_out + 1 :]]
        masks = _visible([_mask(placement) for placement in placements])
    canvas += np.float32(0.007) * rng.standard_normal((SIDE, SIDE, 1), dtype=np.float32)
    image = Image.fromarray((np.clip(canvas, 0, 1) * 255 + 0.5).astype(np.uint8))
    objects = [_seen(placement, mask) for placement, mask in zip(placements, masks, strict=True)]
    return Scene(seed, image, tuple(sorted(objects, key=_reading_order)))


def _reading_order(thing: Placement | SceneObject) -> tuple[int, float]:
    return min(int(thing.centre_y * 3 / SIDE), 2), thing.centre_x  # as SceneObject.row


def _place_of(wanted: int, placements: list[Placement]) -> int:
    """Where among the placements, in the order of painting, the object of this place in reading order is."""
    if isinstance(wanted, bool) or not isinstance(wanted, int) or not 0 <= wanted < len(placements):
        last = len(placements) - 1
        raise ValueError(f"This scene has {last + 1} objects; got without={wanted!r}. Pass 0 to {last}.")
    return sorted(range(len(placements)), key=lambda place: _reading_order(placements[place]))[wanted]


def _visible_layout(
    rng: np.random.Generator, extra_cards: float = 0.0
) -> tuple[list[Placement], list[NDArray[np.bool_]]]:
    """Placements whose objects all stay visible enough, and their visible masks."""
    for _ in range(_LAYOUT_TRIES):
        placements = sample_placements(rng, extra_cards)
        full = [_mask(placement) for placement in placements]
        visible = _visible(full)
        if all(
            seen.sum() >= MIN_VISIBLE.get(placement.shape, MIN_VISIBLE_DEFAULT) * mask.sum()
            for placement, mask, seen in zip(placements, full, visible, strict=True)
        ):
            return placements, visible
    return placements[-1:], full[-1:]  # the last object lies on top and alone is always visible


def _visible(full: list[NDArray[np.bool_]]) -> list[NDArray[np.bool_]]:
    """The pixels of each object that no later one hides: later objects lie on top."""
    hidden, visible = np.zeros((SIDE, SIDE), bool), []
    for mask in reversed(full):
        visible.append(mask & ~hidden)
        hidden |= mask
    return visible[::-1]


def _seen(placement: Placement, mask: NDArray[np.bool_]) -> SceneObject:
    rows, cols = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return SceneObject(
        shape=placement.shape,
        colour=placement.colour,
        size=placement.size,
        character=placement.character,
        centre_x=placement.centre_x,
        centre_y=placement.centre_y,
        box=(int(cols[0]), int(rows[0]), int(cols[-1]) + 1, int(rows[-1]) + 1),
        mask=mask,
    )


def _window(placement: Placement, margin: float) -> tuple[slice, slice]:
    """Rows and columns of the picture within `margin` pixels of the object's enclosing circle."""
    reach = placement.extent / 2 + margin
    top, left = max(0, int(placement.centre_y - reach)), max(0, int(placement.centre_x - reach))
    bottom, right = min(SIDE, int(placement.centre_y + reach) + 2), min(SIDE, int(placement.centre_x + reach) + 2)
    return slice(top, bottom), slice(left, right)


def _distance(
    placement: Placement, window: tuple[slice, slice], shift: tuple[float, float] = (0, 0)
) -> NDArray[np.float32]:
    """Signed distance in pixels at the window's pixel centres, the object moved by `shift`."""
    rows, cols = window
    y, x = np.mgrid[rows, cols].astype(np.float32) + np.float32(0.5)
    x, y = x - np.float32(placement.centre_x + shift[0]), y - np.float32(placement.centre_y + shift[1])
    cos, sin = np.float32(np.cos(placement.rotation)), np.float32(np.sin(placement.rotation))
    radius = np.float32(placement.extent / 2)
    own_x, own_y = (x * cos + y * sin) / radius, (y * cos - x * sin) / radius
    return np.asarray(SIGNED_DISTANCE[placement.shape](own_x, own_y) * radius, np.float32)


def _mask(placement: Placement) -> NDArray[np.bool_]:
    window = _window(placement, 1)
    mask = np.zeros((SIDE, SIDE), bool)
    mask[window] = _distance(placement, window) < 0
    return mask


def _paint(canvas: NDArray[np.float32], placement: Placement, rng: np.random.Generator) -> None:
    """Draw one object with its shadow onto the canvas, in place."""
    window = _window(placement, 22)
    shadow = _distance(placement, window, _SHADOW_SHIFT)
    darkness = 0.5 * np.clip(0.5 - shadow / (2 * _SHADOW_BLUR), 0, 1) ** 1.4
    canvas[window] *= (1 - darkness)[..., None]
    distance = _distance(placement, window)
    coverage = np.clip(0.5 - distance, 0, 1)[..., None]
    colour = _shade(_albedo(placement, window, rng), distance, placement, gloss=float(rng.uniform(0.1, 0.5)))
    canvas[window] += coverage * (colour - canvas[window])


def _albedo(placement: Placement, window: tuple[slice, slice], rng: np.random.Generator) -> NDArray[np.float32]:
    """Paint before light: [rows, cols, 3]; a card carries its character in ink."""
    base = np.asarray(PAINT[placement.colour], np.float32) + rng.uniform(-0.03, 0.03, 3).astype(np.float32)
    height, width = window[0].stop - window[0].start, window[1].stop - window[1].start
    fleck = 1 + np.float32(0.025) * rng.standard_normal((height, width, 1), dtype=np.float32)
    albedo = base * fleck
    if placement.character is None:
        return albedo
    luminance = float(base @ np.array([0.299, 0.587, 0.114], np.float32))
    ink = np.float32(0.07) if luminance > 0.45 else np.float32(0.97)
    print_ = _glyph(placement, window)[..., None]
    return np.asarray(albedo + print_ * (ink - albedo), np.float32)


def _shade(
    albedo: NDArray[np.float32], distance: NDArray[np.float32], placement: Placement, gloss: float
) -> NDArray[np.float32]:
    """Light a bevelled solid from the upper left: Lambert term plus a highlight. A circle is a full dome."""
    bevel = placement.extent / 2 if placement.shape == "circle" else placement.extent * 0.09
    inside = np.clip(-distance / bevel, 0, 1)
    height = bevel * np.sqrt(np.clip(1 - (1 - inside) ** 2, 0, 1)) * (0.75 if placement.shape == "circle" else 0.6)
    slope_y, slope_x = np.gradient(height)
    normal = np.stack((-slope_x, -slope_y, np.ones_like(height)), axis=-1)
    normal /= np.linalg.norm(normal, axis=-1, keepdims=True)
    diffuse = np.clip(normal @ _LIGHT, 0, 1)
    highlight = gloss * np.clip(normal @ _HALFWAY, 0, 1) ** 40
    highlight = highlight if placement.shape == "circle" else highlight * (inside < 1)
    lit = albedo * (0.42 + 0.78 * diffuse)[..., None] + 0.6 * highlight[..., None]
    return np.asarray(np.clip(lit, 0, 1), np.float32)


@lru_cache(maxsize=256)
def _font(size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont), "Pillow was built without FreeType"
    return font


def _glyph(placement: Placement, window: tuple[slice, slice]) -> NDArray[np.float32]:
    """Coverage (0..1) of the printed character over the window, turned with its card."""
    scale = 2  # drawn larger and reduced: turning then leaves no jagged edge
    rows, cols = _window(placement, 1)
    sheet = Image.new("L", ((cols.stop - cols.start) * scale, (rows.stop - rows.start) * scale))
    x, y = (placement.centre_x - cols.start) * scale, (placement.centre_y - rows.start) * scale
    character, font = placement.character or "", _font(round(placement.extent * 0.72 * scale))
    stroke = max(1, round(placement.extent * 0.018 * scale))
    left, top, right, bottom = font.getbbox(character, stroke_width=stroke)
    corner = (x - (left + right) / 2, y - (top + bottom) / 2)
    ImageDraw.Draw(sheet).text(corner, character, 255, font, stroke_width=stroke)
    turned = sheet.rotate(-np.degrees(placement.rotation), Image.Resampling.BICUBIC, center=(x, y))
    coverage = np.zeros((window[0].stop - window[0].start, window[1].stop - window[1].start), np.float32)
    top, left = rows.start - window[0].start, cols.start - window[1].start
    coverage[top : top + rows.stop - rows.start, left : left + cols.stop - cols.start] = (
        np.asarray(turned.reduce(scale), np.float32) / 255
    )
    return coverage
