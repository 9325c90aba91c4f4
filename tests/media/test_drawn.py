"""Drawn scenes are told from photographs, screens, noise and pictures without colours."""

from __future__ import annotations

import io

import matplotlib
import numpy as np
import pytest
from PIL import Image

from benchmarks.visitors import photograph
from flowcut.media.drawn import SIDE, looks_drawn
from flowcut.media.picture import open_picture
from flowcut_lens.scenes import draw
from flowcut_lens.scenes.world import WORLD


def saved(image: Image.Image, **how: object) -> Image.Image:
    file = io.BytesIO()
    image.save(file, **how)
    return open_picture(file.getvalue()).image


@pytest.mark.parametrize("mix", [None, WORLD])
def test_drawn_scenes_saved_in_any_way(mix: object) -> None:
    for seed in range(7_000_000, 7_000_005):
        image = (draw(seed) if mix is None else draw(seed, mix)).image
        assert looks_drawn(image)
        assert looks_drawn(saved(image, format="PNG"))
        assert looks_drawn(saved(image, format="JPEG", quality=75))


def crops(count: int) -> list[Image.Image]:
    """Parts of the photograph that comes with matplotlib, in the scenes' size."""
    whole = Image.open(matplotlib.get_data_path() + "/sample_data/grace_hopper.jpg").convert("RGB")
    rng = np.random.default_rng(0)
    sides = rng.integers(120, 500, count)
    corners = [(rng.integers(0, whole.width - side), rng.integers(0, whole.height - side), side) for side in sides]
    return [whole.crop((x, y, x + side, y + side)).resize((SIDE, SIDE)) for x, y, side in corners]


def test_photographs() -> None:
    for image in crops(30):
        assert not looks_drawn(image)
        assert not looks_drawn(image.convert("L").convert("RGB"))
    assert not looks_drawn(open_picture(photograph(0, (800, 600))).image)
    assert not looks_drawn(open_picture(photograph(1, (SIDE, SIDE))).image)


def test_screens_noise_and_plain_pictures() -> None:
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    screen = np.full((SIDE, SIDE, 3), 250, np.uint8)
    screen[40:120, 30:300], screen[150:160, 30:200] = (30, 90, 200), 20
    for image in (noise, screen, np.zeros_like(noise), np.full_like(noise, 200), noise[:8, :8]):
        assert not looks_drawn(Image.fromarray(image).resize((SIDE, SIDE)))


def test_another_size() -> None:
    assert not looks_drawn(draw(3).image.resize((640, 640)))
