"""Draw a scene from its seed: table top, soft shadows, bevelled and lit objects, printed cards, and exact masks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flowcut_lens.scenes.backgrounds import background
from flowcut_lens.scenes.paint import PAINT
from flowcut_lens.scenes.printing import number_height, printed, shown_bars
from flowcut_lens.scenes.shapes import SIGNED_DISTANCE
from flowcut_lens.scenes.world import (
    DRAWN,
    MIN_VISIBLE,
    MIN_VISIBLE_DEFAULT,
    SIDE,
    Placement,
    Scene,
    SceneMix,
    SceneObject,
    reading_order,
    sample_placements,
)

_LIGHT = np.array([-0.45, -0.55, 0.70], np.float32) / np.float32(np.sqrt(0.45**2 + 0.55**2 + 0.70**2))
_HALFWAY = (_LIGHT + np.array([0, 0, 1], np.float32)) / np.linalg.norm(_LIGHT + np.array([0, 0, 1], np.float32))
_SHADOW_SHIFT = (4.0, 6.0)
_SHADOW_BLUR = 9.0
_LAYOUT_TRIES = 50


def draw(seed: int, mix: SceneMix = DRAWN, without: int | None = None) -> Scene:
    """The scene of a seed: the same picture, objects and masks on every machine.

    Args:
        seed: 0 to 2**63 - 1.
        mix: how often what is harder to see comes up; the shipped model knows the default.
        without: leave this object out, by its place in the whole scene's `objects`: every random number is drawn as
            before, so that nothing else changes but what it hid and shaded. With a chart its bars go; a bar goes alone.

    Raises:
        ValueError: the seed is not an integer from 0 to 2**63 - 1, or the scene has no such object.
    """
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or not 0 <= seed < 2**63:
        raise ValueError(f"A scene's seed is an integer from 0 to 2**63 - 1; got {seed!r}. Pass for example 7.")
    rng = np.random.default_rng(int(seed))
    return compose(int(seed), background(rng), rng, mix, without)


def compose(
    seed: int,
    canvas: NDArray[np.float32],
    rng: np.random.Generator,
    mix: SceneMix = DRAWN,
    without: int | None = None,
) -> Scene:
    """Lay random objects on a table top ([336, 336, 3], 0..1; drawn over in place) and say what lies where.

    `without` is as in `draw`.
    """
    laid, masks = _visible_layout(rng, mix)
    painted: list[Placement | None] = list(laid)
    if without is not None:
        place, what_stays = _leave_out(without, laid, masks)
        painted[place] = what_stays
    for placement, stays in zip(laid, painted, strict=True):
        _paint(canvas.copy() if stays is None else canvas, stays or placement, rng)
    if without is not None:
        laid = [placement for placement in painted if placement is not None]
        masks = _visible([_mask(placement) for placement in laid])
    canvas += np.float32(0.007) * rng.standard_normal((SIDE, SIDE, 1), dtype=np.float32)
    image = Image.fromarray((np.clip(canvas, 0, 1) * 255 + 0.5).astype(np.uint8))
    objects = [thing for placement, mask in zip(laid, masks, strict=True) for thing in _seen(placement, mask)]
    return Scene(seed, image, reading_order(objects))


def _leave_out(
    wanted: int, placements: list[Placement], masks: list[NDArray[np.bool_]]
) -> tuple[int, Placement | None]:
    """Which placement the object of this place in reading order is of, and what stays of it: a chart less a bar."""
    things = [
        (thing, place, number - 1)
        for place, (placement, mask) in enumerate(zip(placements, masks, strict=True))
        for number, thing in enumerate(_seen(placement, mask))
    ]
    if isinstance(wanted, bool) or not isinstance(wanted, int) or not 0 <= wanted < len(things):
        last = len(things) - 1
        raise ValueError(f"This scene has {last + 1} objects; got without={wanted!r}. Pass 0 to {last}.")
    chosen = reading_order(thing for thing, _, _ in things)[wanted]
    place, bar = next((place, bar) for thing, place, bar in things if thing is chosen)
    return place, None if bar < 0 else replace(placements[place], left_out=bar)


def _visible_layout(rng: np.random.Generator, mix: SceneMix = DRAWN) -> tuple[list[Placement], list[NDArray[np.bool_]]]:
    """Placements whose objects all stay visible enough, and their visible masks."""
    for _ in range(_LAYOUT_TRIES):
        placements = sample_placements(rng, mix)
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


def _seen(placement: Placement, mask: NDArray[np.bool_]) -> list[SceneObject]:
    """The object of a placement with the pixels it is seen in; a chart's bars are objects of their own, cut from it."""
    found, middles = [], np.arange(SIDE) + 0.5
    for bar, (left, top, right, bottom) in shown_bars(placement):
        inside_rows = (middles >= top - number_height(placement)) & (middles < bottom)
        inside = inside_rows[:, None] & ((middles >= left) & (middles < right))
        found.append(_object(bar, mask & inside))
        mask = mask & ~inside
    return [_object(placement, mask), *found]


def _object(placement: Placement, mask: NDArray[np.bool_]) -> SceneObject:
    rows, cols = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return SceneObject(
        shape=placement.shape,
        colour=placement.colour,
        size=placement.size,
        text=placement.text,
        centre_x=placement.centre_x,
        centre_y=placement.centre_y,
        box=(int(cols[0]), int(rows[0]), int(cols[-1]) + 1, int(rows[-1]) + 1),
        mask=mask,
        small_print=placement.small_print,
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
    luminance = float(base @ np.array([0.299, 0.587, 0.114], np.float32))
    ink = np.full(3, 0.07 if luminance > 0.45 else 0.97, np.float32)
    sheet = _window(placement, 1)
    for colour, coverage in printed(placement, sheet, ink):
        over = _placed(coverage, sheet, window)[..., None]
        albedo = np.asarray(albedo + over * (colour - albedo), np.float32)
    return np.asarray(albedo, np.float32)


def _placed(
    coverage: NDArray[np.float32], sheet: tuple[slice, slice], window: tuple[slice, slice]
) -> NDArray[np.float32]:
    """Coverage of a sheet, laid into a larger window of the picture."""
    placed = np.zeros((window[0].stop - window[0].start, window[1].stop - window[1].start), np.float32)
    top, left = sheet[0].start - window[0].start, sheet[1].start - window[1].start
    placed[top : top + coverage.shape[0], left : left + coverage.shape[1]] = coverage
    return placed


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
