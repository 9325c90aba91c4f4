"""Families whose frames go through the tower as pictures do: one mask for each frame; stock generate."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

import flowcut
from flowcut.families import family_of
from tests import invariants, tiny, tiny_video

CUT = flowcut.FlowCut(tokens=12)
SHAPES = [(96, 96), (400, 100), (100, 400), (1000, 100), (100, 1000), (9, 7), (2, 2), (333, 217), (57, 290), (640, 480),
          (29, 700), (51, 49)]  # fmt: skip


@pytest.fixture(scope="module", params=tiny_video.KINDS)
def kind(request: Any) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def model(kind: str) -> Any:
    return tiny_video.model(kind)


@pytest.fixture(scope="module")
def processor(kind: str) -> Any:
    return tiny_video.processor(kind)


def asked(processor: Any, *prompts: str, frames: int = 3, first: int = 0, side: str = "left") -> Any:
    """Prompts with `@` for each video."""
    processor.tokenizer.padding_side = side
    videos = [tiny_video.clip(seed, frames) for seed in range(first, first + "".join(prompts).count("@"))]
    texts = [prompt.replace("@", "<video>") for prompt in prompts]
    return processor(videos=videos, text=texts, return_tensors="pt", padding=True)


def pictured(processor: Any, *prompts: str) -> Any:
    """Prompts with `@` for each picture, of unequal sizes."""
    sizes = [(60, 52), (150, 60), (45, 120)]
    pictures = [tiny.picture(seed, sizes[seed % 3]) for seed in range("".join(prompts).count("@"))]
    texts = [prompt.replace("@", "<image>") for prompt in prompts]
    processor.tokenizer.padding_side = "left"
    return processor(images=pictures, text=texts, return_tensors="pt", padding=True)


generate = partial(invariants.generate, placeholders=(tiny_video.IMAGE, tiny_video.VIDEO), tokens=5)


@pytest.mark.parametrize("cut", [None, flowcut.FlowCut(tokens=5000)], ids=["whole", "budget above"])
@pytest.mark.parametrize("ask", [asked, pictured], ids=["videos", "pictures"])
@pytest.mark.parametrize("options", [{}, {"num_beams": 3}], ids=str)
@pytest.mark.parametrize("prompts", [["@ what?", "a longer one with @ in it"], ["@ or @?"]], ids=["batch", "several"])
def test_keeping_all_is_the_stock_answer_to_the_bit(
    model: Any, processor: Any, cut: Any, ask: Any, options: dict, prompts: list[str]
) -> None:
    invariants.check_keeping_all(model, ask(processor, *prompts), cut, generate, **options)


def test_text_alone_passes_untouched(model: Any, processor: Any) -> None:
    inputs = processor(text=["only words"], return_tensors="pt")
    with flowcut.prune(model, CUT) as session:
        prepared = session.prepare(inputs)
    assert torch.equal(prepared["input_ids"], inputs["input_ids"])
    assert "mm_encoder_outputs" not in prepared


@pytest.mark.parametrize("prompt", ["@ what?", "one @ and two @ differ?", "first words.</s> then a second turn, @ is?"])
@pytest.mark.parametrize(
    "cut",
    [CUT, flowcut.FlowCut(tokens=11, variant="paper"), flowcut.Cut("stride", tokens=12)],
    ids=lambda cut: str(cut.title),
)
def test_decoding_after_the_cut_equals_a_full_prefill(model: Any, processor: Any, prompt: str, cut: Any) -> None:
    invariants.check_decoding(model, asked(processor, prompt), cut, generate)


@pytest.mark.parametrize("method", ["flowcut", "random", "stride", "cls-attention"])
@pytest.mark.parametrize("tokens", [3, 11, 12, 40])
def test_the_language_model_receives_the_budget(
    kind: str, model: Any, processor: Any, method: str, tokens: int
) -> None:
    inputs = asked(processor, "@ what?")
    cut = flowcut.Cut(method, tokens=tokens)
    with flowcut.prune(model, cut) as session, invariants.counted_at_decoder_input(model) as seen, torch.no_grad():
        model(**session.prepare(inputs))
    assert seen == [int((inputs["input_ids"] != tiny_video.VIDEO).sum()) + tokens]
    assert session.separator_tokens == 0
    record, (video,) = session.record, session.media
    assert record.batch == 3
    kept = video.sources[:, 0].bincount(minlength=3)
    assert kept.sum() == tokens
    assert kept.max() - kept.min() <= 1
    if kind != "LlavaOnevision":  # whose pooled tokens share patches
        assert (record.kept_patch_ids >= 0).sum() // record.patches_per_token == tokens
    for row, patch in video.source_patches.view(-1, 2).tolist():
        assert row == -1 or patch in record.image(row).kept_patch_ids[0]


@pytest.mark.parametrize("cut", [None, CUT], ids=["whole", "cut"])
@torch.no_grad()
def test_a_token_is_made_of_the_patches_it_says(kind: str, model: Any, processor: Any, cut: Any) -> None:
    """Rebuilt from what leaves the tower: the mix of its patches, projected before or after it."""
    inputs, towers, parts = asked(processor, "@ or @?"), [], model.model
    layer, cls = (-1, 0) if kind == "LlavaOnevision" else (-2, 1)
    tower = parts.video_tower if kind == "VideoLlava" else parts.vision_tower
    hook = tower.register_forward_hook(lambda module, args, output: towers.append(output.hidden_states[layer]))
    with flowcut.prune(model, cut) as session:
        session.prepare(inputs)
    hook.remove()
    record, project = session.record, parts.multi_modal_projector
    features = project(towers[0]) if kind == "LlavaOnevision" else towers[0]
    for video in session.media:
        for token, sources, shares in zip(video.features, video.source_patches, video.shares, strict=True):
            if not shares.sum():
                continue
            mixed = torch.zeros_like(features[0, 0])
            for (row, patch), share in zip(sources.tolist(), shares, strict=True):
                if share:
                    mixed = (
                        mixed + share * features[row, cls + record.image(row).kept_patch_ids[0].tolist().index(patch)]
                    )
            wanted = mixed if kind == "LlavaOnevision" else project(mixed[None, None])[0, 0]
            torch.testing.assert_close(token, wanted, atol=1e-4, rtol=1e-4)
    assert record.patches_per_token == {"LlavaNextVideo": 4}.get(kind, 1)
    assert session.media[0].source_patches.shape[1] == {"VideoLlava": 1}.get(kind, 4)


def test_the_mask_of_a_frame_is_that_of_its_picture(kind: str, model: Any, processor: Any) -> None:
    """A frame cut by itself in the bare tower keeps the same patches, where it is not coupled to others."""
    tower = model.model.video_tower if kind == "VideoLlava" else model.model.vision_tower
    squared = 2 if kind == "LlavaNextVideo" else 1
    share = 32 if kind == "LlavaOnevision" else 4  # a quarter of the tokens: half of each axis' patches
    inputs = asked(processor, "@ what?")
    with flowcut.prune(model, flowcut.FlowCut(tokens=12, per_image=True)) as session:
        session.prepare(inputs)
    for frame, pixels in enumerate(inputs["pixel_values_videos"][0]):
        recording = flowcut.record(tower, flowcut.FlowCut(tokens=share))
        recording.recut(recording.plan.cut, squared)
        with recording, torch.no_grad():
            tower(pixels[None])
        np.testing.assert_array_equal(recording.record.kept_patch_ids, session.record.image(frame).kept_patch_ids)


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_padded_batch_reads_as_each_alone(model: Any, processor: Any, side: str) -> None:
    prompts = ["@ what?", "one rather longer prompt, and then @ is?"]
    together = asked(processor, *prompts, side=side)
    alone = [asked(processor, prompt, first=row) for row, prompt in enumerate(prompts)]
    invariants.check_padded_batch(model, together, alone, flowcut.FlowCut(tokens=11, per_image=True))


@pytest.mark.parametrize("size", SHAPES, ids=str)
def test_painted_patches(model: Any, processor: Any, size: tuple[int, int]) -> None:
    """In every frame, the patches that change are those whose boxes the paint, or its blur, reaches."""
    width, height = size
    family = family_of(model.config)
    geometries = family.frame_geometries(model, processor.video_processor, size, 2)
    assert [geometry.view for geometry in geometries] == ["frame 1", "frame 2"]
    rng = np.random.default_rng(0)
    embedding = family.vision_tower(model, family.media[-1]).embeddings.patch_embedding
    for painted_frame in (0, 1):
        left, top, right, bottom = paint = invariants.paint_of(rng, size)
        black = np.zeros((2, height, width, 3), np.uint8)
        painted = black.copy()
        painted[painted_frame, top:bottom, left:right] = 255
        pixels = [
            processor.video_processor(list(video), return_tensors="pt")["pixel_values_videos"][0]
            for video in (black, painted)
        ]
        with torch.no_grad():
            apart = embedding(pixels[0]) - embedding(pixels[1])
        for frame, (geometry, change) in enumerate(zip(geometries, apart, strict=True)):
            changed = change.abs().amax(0).flatten().numpy() > 1e-3  # frames are 8-bit after the resize
            if frame != painted_frame:
                assert not changed.any()
                continue
            invariants.check_paint(geometry, changed, paint)


@pytest.mark.parametrize(
    ("inputs", "sentence"),
    [
        ({"pixel_values_videos": torch.zeros(1, 3, 48, 48)}, "at least one frame"),
        ({"pixel_values_videos": torch.zeros(1, 0, 3, 48, 48)}, "at least one frame"),
        ({"pixel_values": torch.zeros(1, 3, 48, 48)}, "one kind at a time"),
        ({"input_ids": torch.full((1, 7), tiny_video.VIDEO)}, "7 video placeholders"),
    ],
)
def test_inputs_that_do_not_belong_together(model: Any, processor: Any, inputs: dict, sentence: str) -> None:
    good = asked(processor, "@ what?")
    with flowcut.prune(model, CUT) as session, pytest.raises(flowcut.FlowCutError, match=sentence):
        session.prepare({**good, **inputs})


def test_fewer_tokens_than_frames(model: Any, processor: Any) -> None:
    sentence = "3 frames, each of which keeps at least one: choose 3 or more"
    with flowcut.prune(model, flowcut.FlowCut(tokens=2)) as session, pytest.raises(flowcut.InvalidCut, match=sentence):
        session.prepare(asked(processor, "@ what?"))
