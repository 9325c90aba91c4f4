"""Table tops to lay objects on: wood, linen, stone, felt, paper and slate, muted so that every object colour
stands out.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flowcut_lens.scenes.world import SIDE

Picture = NDArray[np.float32]

_ROWS, _COLS = (axis.astype(np.float32) for axis in np.mgrid[0:SIDE, 0:SIDE])


def noise(rng: np.random.Generator, rows: int, cols: int) -> Picture:
    """Smooth random field in [-1, 1], [336, 336], with about `rows` x `cols` bumps."""
    coarse = rng.uniform(-1, 1, size=(rows + 3, cols + 3)).astype(np.float32)
    return np.asarray(Image.fromarray(coarse).resize((SIDE, SIDE), Image.Resampling.BICUBIC))


def _grain(rng: np.random.Generator, amount: float) -> Picture:
    return np.float32(amount) * rng.standard_normal((SIDE, SIDE), dtype=np.float32)


def _tint(tone: Picture, base: tuple[float, float, float], accent: tuple[float, float, float]) -> Picture:
    """Blend two colours (0..1) by a tone field (0..1): [336, 336, 3]."""
    low, high = np.asarray(base, np.float32), np.asarray(accent, np.float32)
    return low + np.clip(tone, 0, 1)[..., None] * (high - low)


def wood(rng: np.random.Generator) -> Picture:
    along, across = (_COLS, _ROWS) if rng.random() < 0.5 else (_ROWS, _COLS)
    stretched = noise(rng, 34, 3) if along is _COLS else noise(rng, 3, 34)
    fine = noise(rng, 120, 5) if along is _COLS else noise(rng, 5, 120)
    width = float(rng.uniform(60, 120))
    plank = np.floor((across + rng.uniform(0, width)) / width)
    step = rng.uniform(-0.16, 0.16, size=12).astype(np.float32)[plank.astype(int) % 12]
    seam = np.abs((across + 0.5) % width - width / 2) > width / 2 - 0.9
    tone = 0.5 + 0.24 * stretched + 0.16 * fine + step - 0.22 * seam
    palettes = (((0.34, 0.23, 0.15), (0.58, 0.43, 0.29)), ((0.42, 0.34, 0.27), (0.66, 0.56, 0.45)))
    return _tint(tone, *palettes[int(rng.integers(2))])


def linen(rng: np.random.Generator) -> Picture:
    period = float(rng.uniform(3.4, 5.0))
    weave = np.sin(_COLS * 2 * np.pi / period) * np.sin(_ROWS * 2 * np.pi / period)
    tone = 0.5 + 0.16 * weave + 0.16 * noise(rng, 90, 8) + 0.16 * noise(rng, 8, 90) + 0.1 * noise(rng, 4, 4)
    palettes = (((0.52, 0.5, 0.44), (0.68, 0.65, 0.58)), ((0.36, 0.4, 0.43), (0.52, 0.56, 0.59)))
    return _tint(tone, *palettes[int(rng.integers(2))])


def stone(rng: np.random.Generator) -> Picture:
    tone = 0.5 + 0.3 * noise(rng, 5, 5) + 0.2 * noise(rng, 14, 14) + 0.12 * noise(rng, 50, 50) + _grain(rng, 0.09)
    palettes = (((0.36, 0.36, 0.37), (0.58, 0.58, 0.57)), ((0.42, 0.38, 0.34), (0.62, 0.58, 0.52)))
    return _tint(tone, *palettes[int(rng.integers(2))])


def felt(rng: np.random.Generator) -> Picture:
    tone = 0.5 + 0.22 * noise(rng, 3, 3) + 0.14 * noise(rng, 80, 80) + _grain(rng, 0.16)
    palettes = (((0.16, 0.27, 0.25), (0.25, 0.37, 0.34)), ((0.21, 0.24, 0.33), (0.31, 0.34, 0.44)))
    return _tint(tone, *palettes[int(rng.integers(2))])


def paper(rng: np.random.Generator) -> Picture:
    tone = 0.55 + 0.2 * noise(rng, 2, 2) + 0.12 * noise(rng, 60, 60) + _grain(rng, 0.1)
    return _tint(tone, (0.6, 0.58, 0.53), (0.74, 0.72, 0.66))


def slate(rng: np.random.Generator) -> Picture:
    veins = np.abs(noise(rng, 7, 3) + 0.4 * noise(rng, 20, 9))
    tone = 0.35 + 0.5 * np.exp(-22 * veins) * rng.uniform(0.4, 1.0) + 0.18 * noise(rng, 6, 6) + _grain(rng, 0.05)
    return _tint(tone, (0.17, 0.19, 0.22), (0.42, 0.44, 0.47))


BACKGROUNDS: tuple[Callable[[np.random.Generator], Picture], ...] = (wood, linen, stone, felt, paper, slate)


def background(rng: np.random.Generator) -> Picture:
    """One table top under a lamp that stands to the upper left: [336, 336, 3], 0..1."""
    surface = BACKGROUNDS[int(rng.integers(len(BACKGROUNDS)))](rng)
    lamp_x, lamp_y = rng.uniform(-0.1, 0.55, size=2) * SIDE
    distance = np.hypot(_COLS - lamp_x, _ROWS - lamp_y) / SIDE
    light = 1.08 - 0.24 * distance**1.5
    return np.clip(surface * light[..., None], 0, 1).astype(np.float32)
