"""Heat pictures: the orange lies where the patches of the tokens lie, base and crops apart, all on one scale."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from flowcut.media.picture import Picture
from flowcut.media.video import Video
from flowcut.records.answer_attention import AnswerAttention
from flowcut.records.run import Run
from flowcut_lens.app.media.chosen import ChosenPicture
from flowcut_lens.app.views.ask.overlay import heat_pictures
from tests.analysis import synthetic
from tests.analysis.test_views import ENCODERS, HEIGHT, WIDTH, geometries, joined

NAMES = ("base", "crop row 1, column 1", "crop row 1, column 2")


def seen(parts: list[list[int]]) -> AnswerAttention:
    """Attention whose numbers do not matter here, over tokens of one patch each."""
    none = np.zeros((1, 1, 1, len(parts)), np.float32)
    single = np.zeros((1, 1, 1), np.float32)
    traced = np.array(parts)[:, None]
    return AnswerAttention(none, none, single, single, single, np.arange(len(parts)), traced, np.ones((len(parts), 1)))


def tiled(names: tuple[str, ...], parts: list[list[int]]) -> Run:
    record = joined([synthetic.flow_record(encoder) for encoder in ENCODERS], geometries(names))
    return replace(synthetic.run(record), answer_attention=seen(parts))


def warmth(image: Image.Image) -> np.ndarray:
    pixels = np.asarray(image, dtype=np.int64)
    return pixels[..., 0] - pixels[..., 2]  # grey and white are 0


@pytest.fixture
def picture() -> ChosenPicture:
    return ChosenPicture(Picture(Image.new("RGB", (WIDTH, HEIGHT), "grey")), "grey")


def test_base_and_crops_show_their_own_tokens(picture: ChosenPicture) -> None:
    run = tiled(NAMES, [[0, 0], [2, 35], [1, 6]])
    base, crops = heat_pictures(run, np.array([0.5, 1.0, 0.25]), picture)
    assert base.title.startswith("base")
    assert crops.title.startswith("2 crops")
    assert warmth(base.image)[:8, :20].min() > 0
    assert warmth(base.image)[10:, 22:].max() == 0
    hot, mild = warmth(crops.image)[46:, 111:], warmth(crops.image)[6:14, :9]
    assert hot.min() > mild.max()  # one scale over both crops
    assert mild.min() > 0
    assert warmth(crops.image)[:, 20:100].max() == 0


def test_frames_show_themselves(picture: ChosenPicture) -> None:
    colours = ("black", "grey", "white")
    frames = tuple(Image.new("RGB", (WIDTH, HEIGHT), colour) for colour in colours)
    run = tiled(("frame 1", "frame 2", "frame 3"), [[0, 0], [1, 0], [2, 0]])
    shown = heat_pictures(run, np.ones(3), replace(picture, source=Video(frames)))
    assert [heat.title.split(",")[0] for heat in shown] == ["frame 1", "frame 2", "frame 3"]
    dark = [int(np.asarray(heat.image)[-1, -1, 0]) for heat in shown]
    assert len(set(dark)) == 3  # each on its own frame's grey


def test_tokens_that_cannot_be_traced_have_no_picture(picture: ChosenPicture) -> None:
    run = tiled(NAMES, [[0, 0]])
    assert run.answer_attention is not None
    untraced = replace(run, answer_attention=replace(run.answer_attention, source_patches=None, shares=None))
    assert heat_pictures(untraced, np.ones(1), picture) == []
