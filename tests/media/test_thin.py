"""Pictures and frames of 1 to 3 pixels, the number of colours: every family sees them as they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import flowcut
from flowcut.generation.medium import kind_of, open_medium, processed
from tests import tiny, tiny_qwen, tiny_video

MAKERS: dict[str, Any] = {
    "Llava": tiny.checkpoint,
    "LlavaNext": tiny.next_checkpoint,
    **{kind: lambda folder, kind=kind: tiny_video.checkpoint(kind, folder) for kind in tiny_video.KINDS},
    **{kind: lambda folder, kind=kind: tiny_qwen.checkpoint(kind, folder) for kind in tiny_qwen.KINDS},
}
SQUARE = ("Llava", "VideoLlava", "LlavaNextVideo", "LlavaOnevision")
"""What makes a square of whatever it is given: a picture on its side becomes the same square on its side."""
WHOLE_PICTURES = ("Llava", "VideoLlava")
"""Those that do not cut pictures into tiles."""


@pytest.fixture(scope="module", params=MAKERS)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return flowcut.load(MAKERS[request.param](tmp_path_factory.mktemp(request.param)))


def noise(width: int, height: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def given(model: Any, source: Any) -> np.ndarray:
    """The pixels that the model's processor hands over."""
    medium = open_medium(model, source)
    prompt = model.family.prompt(model.processor, "What?", None, kind_of(model, medium))
    inputs = processed(model, medium, prompt)
    (pixels,) = (value for name, value in inputs.items() if name.startswith("pixel_values"))
    return pixels.float().numpy()


@pytest.mark.parametrize("size", [(50, 1), (1, 50), (90, 3), (3, 90), (3, 3), (1, 1), (100, 4)], ids=str)
def test_thin_pictures_and_frames_are_asked_about(model: Any, size: tuple[int, int]) -> None:
    pixels = noise(*size)
    run = flowcut.ask(model, Image.fromarray(pixels), "What?", max_new_tokens=1)
    assert run.image_size == size
    if model.family.frames:
        flowcut.ask(model, np.stack([pixels] * 3), "What?", max_new_tokens=1)


@pytest.mark.parametrize("size", [(30, 1), (90, 3), (3, 3), (100, 4)], ids=str)
@pytest.mark.parametrize("name", SQUARE)
def test_a_thin_picture_on_its_side_is_seen_as_the_same_on_its_side(
    name: str, size: tuple[int, int], tmp_path: Path
) -> None:
    model, pixels = flowcut.load(MAKERS[name](tmp_path)), noise(*size)
    turned = pixels.transpose(1, 0, 2).copy()
    sources = [(np.stack([pixels] * 3), np.stack([turned] * 3))] if model.family.frames else []
    if name in WHOLE_PICTURES:
        sources.append((pixels, turned))
    assert sources
    for lying, standing in sources:
        seen, other = given(model, lying).swapaxes(-1, -2), given(model, standing)
        assert np.corrcoef(seen.ravel(), other.ravel())[0, 1] > 0.999  # both axes are resized in turn, and rounded
