"""Videos of InternVL and SmolVLM2: frames are tiles of one video, which their processors name as pictures."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers.video_utils import VideoMetadata

import flowcut
from flowcut.families import family_of
from tests import invariants, tiny_shuffle, tiny_video

CUT = flowcut.FlowCut(tokens=11)
SHAPES = [(96, 96), (400, 100), (100, 400), (9, 7), (333, 217), (640, 480)]


@pytest.fixture(scope="module", params=["InternVL3", "SmolVLM"])
def kind(request: Any) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def model(kind: str) -> Any:
    return tiny_shuffle.model(kind)


@pytest.fixture(scope="module")
def processor(kind: str) -> Any:
    return tiny_shuffle.processor(kind)


def asked(processor: Any, *prompts: str, frames: int = 3) -> Any:
    """Prompts with `@` for the video of each, as the family's own processor makes them."""
    videos = [tiny_video.clip(seed, frames) for seed in range(len(prompts))]
    told = [VideoMetadata(total_num_frames=frames, fps=2.0, frames_indices=list(range(frames)))] * len(prompts)
    texts = [prompt.replace("@", processor.video_token) for prompt in prompts]
    return processor(
        videos=videos, text=texts, return_tensors="pt", padding=True, do_sample_frames=False, video_metadata=told
    )


def named(model: Any, inputs: Any) -> Any:
    family = family_of(model.config)
    return family.named(family.media[1], inputs)


def test_keeping_all_is_the_stock_answer_to_the_bit(kind: str, model: Any, processor: Any) -> None:
    generate = partial(invariants.generate, placeholders=(tiny_shuffle.image_id(kind),), tokens=5)
    inputs = asked(processor, "@ what?", "a longer one with @ in it")
    for options in ({}, {"num_beams": 3}):
        stock = generate(model, inputs, **options)
        with flowcut.prune(model) as session:
            ours = generate(model, session.prepare(named(model, inputs)), **options)
        assert torch.equal(ours.new, stock.new)
        assert all(torch.equal(a, b) for a, b in zip(ours.logits, stock.logits, strict=True))
    assert len(session.media) == 2
    assert session.record.batch == 6


def test_decoding_after_the_cut_equals_a_full_prefill(kind: str, model: Any, processor: Any) -> None:
    generate = partial(invariants.generate, placeholders=(tiny_shuffle.image_id(kind),), tokens=5)
    invariants.check_decoding(model, named(model, asked(processor, "@ what?")), CUT, generate)


def test_the_budget_is_shared_by_the_frames(kind: str, model: Any, processor: Any) -> None:
    inputs = named(model, asked(processor, "@ what?", "a longer one with @ in it"))
    with flowcut.prune(model, CUT) as session, invariants.counted_at_decoder_input(model) as seen, torch.no_grad():
        prepared = session.prepare(inputs)
        model(**prepared)
    assert int((prepared["input_ids"] == tiny_shuffle.image_id(kind)).sum()) == 22
    assert seen == [prepared["input_ids"].shape[1]]
    assert [np.bincount(medium.sources[:, 0]).tolist() for medium in session.media] == [[4, 4, 3], [0, 0, 0, 4, 4, 3]]
    with flowcut.prune(model, flowcut.FlowCut(2)) as session, pytest.raises(flowcut.InvalidCut, match="3 frames"):
        session.prepare(inputs)


@pytest.mark.parametrize("size", SHAPES, ids=str)
def test_painted_frames(kind: str, model: Any, processor: Any, size: tuple[int, int]) -> None:
    """Only the painted frame changes, where the paint or its blur reaches."""
    width, height = size
    family, rng = family_of(model.config), np.random.default_rng(0)
    geometries = family.frame_geometries(model, processor.video_processor, size, 3)
    assert [geometry.view for geometry in geometries] == ["frame 1", "frame 2", "frame 3"]
    embedding = flowcut.encoder.recording.find_encoder(family.vision_tower(model)).patch_embedding
    left, top, right, bottom = paint = invariants.paint_of(rng, size)
    black = np.zeros((3, height, width, 3), np.uint8)
    painted = black.copy()
    painted[1, top:bottom, left:right] = 255
    made = [processor.video_processor([video], return_tensors="pt", resample=2) for video in (black, painted)]
    name = "pixel_values" if kind == "SmolVLM" else "pixel_values_videos"
    pixels = [one[name].flatten(0, 1) for one in made]
    with torch.no_grad():
        apart = (embedding(pixels[0]) - embedding(pixels[1])).abs().amax(1).flatten(1).numpy() > 1e-4
    assert not apart[[0, 2]].any()
    # SmolVLM's frames are resized twice, first to their own aspect.
    between = max(size) / (2 * tiny_shuffle.SIDES[kind][0]) if kind == "SmolVLM" else 0.0
    invariants.check_paint(geometries[1], apart[1], paint, between)


def test_a_video_asked_from_a_folder(kind: str, tmp_path: Path) -> None:
    loaded = flowcut.load(tiny_shuffle.checkpoint(kind, tmp_path))
    frames = list(tiny_video.clip(0, 3))
    whole = flowcut.ask(loaded, frames, "What happens?", max_new_tokens=4)
    run = flowcut.ask(loaded, frames, "What happens?", CUT, max_new_tokens=4)
    assert run.visual_tokens == 11
    assert whole.visual_tokens == 3 * tiny_shuffle.per_tile(kind)
    assert run.record is not None
    assert [geometry.view for geometry in run.record.geometries] == ["frame 1", "frame 2", "frame 3"]
    assert any("a video's frames" in note for note in run.record.notes)
    assert any("as if there were 24 a second" in note for note in run.notes) == (kind == "SmolVLM")


def test_frames_have_text_between_them_which_no_cut_in_the_decoder_takes(kind: str, model: Any, processor: Any) -> None:
    inputs, cut = named(model, asked(processor, "@ what?")), flowcut.Cut("fastv", tokens=11)
    with pytest.raises(flowcut.InvalidCut, match="text between"), flowcut.prune(model, cut) as session:
        session.prepare(inputs)
