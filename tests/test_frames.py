"""Families whose frames go through the tower as pictures do: one mask for each frame; stock generate."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import flowcut
from flowcut.families import family_of
from tests import tiny, tiny_video
from tests.test_vision import state_of

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


def generate(model: Any, inputs: Any, **options: Any) -> Any:
    wanted = {"max_new_tokens": 5, "do_sample": False, "eos_token_id": None, "pad_token_id": 0, **options}
    wanted["suppress_tokens"] = [tiny_video.IMAGE, tiny_video.VIDEO]
    out = model.generate(**inputs, **wanted, return_dict_in_generate=True, output_logits=True)
    out.new = out.sequences[:, inputs["input_ids"].shape[1] :]
    return out


def door_tokens(model: Any, inputs: Any) -> int:
    """Tokens of a prompt that the language model truly receives."""
    seen: list[int] = []
    hook = model.model.language_model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["inputs_embeds"].shape[1]), with_kwargs=True
    )
    try:
        with torch.no_grad():
            model(**inputs)
    finally:
        hook.remove()
    return seen[0]


@pytest.mark.parametrize("cut", [None, flowcut.FlowCut(tokens=5000)], ids=["whole", "budget above"])
@pytest.mark.parametrize("ask", [asked, pictured], ids=["videos", "pictures"])
@pytest.mark.parametrize("options", [{}, {"num_beams": 3}], ids=str)
@pytest.mark.parametrize("prompts", [["@ what?", "a longer one with @ in it"], ["@ or @?"]], ids=["batch", "several"])
def test_keeping_all_is_the_stock_answer_to_the_bit(
    model: Any, processor: Any, cut: Any, ask: Any, options: dict, prompts: list[str]
) -> None:
    inputs = ask(processor, *prompts)
    stock = generate(model, inputs, **options)
    before = state_of(model)
    with flowcut.prune(model, cut) as session, torch.no_grad():
        assert torch.equal(model(**session.prepare(inputs)).logits, model(**inputs).logits)
        ours = generate(model, session.prepare(inputs), **options)
    assert torch.equal(ours.new, stock.new)
    assert all(torch.equal(a, b) for a, b in zip(ours.logits, stock.logits, strict=True))
    assert state_of(model) == before


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
    inputs = asked(processor, prompt)
    with flowcut.prune(model, cut) as session:

        def continued(sequences: torch.Tensor) -> torch.Tensor:
            prepared = session.prepare(inputs)
            whole = {**prepared, "input_ids": sequences, "attention_mask": torch.ones_like(sequences)}
            with torch.no_grad():
                return model(**whole).logits[:, -6:-1]

        out = generate(model, session.prepare(inputs))
        torch.testing.assert_close(continued(out.sequences), torch.stack(out.logits, 1), atol=1e-5, rtol=1e-5)
        beams = generate(model, session.prepare(inputs), num_beams=3, output_scores=True)
        logprobs = continued(beams.sequences).log_softmax(-1)
        mean = logprobs.gather(2, beams.new[..., None]).mean()
        torch.testing.assert_close(mean[None], beams.sequences_scores, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("method", ["flowcut", "random", "stride", "cls-attention"])
@pytest.mark.parametrize("tokens", [3, 11, 12, 40])
def test_the_language_model_receives_the_budget(
    kind: str, model: Any, processor: Any, method: str, tokens: int
) -> None:
    inputs = asked(processor, "@ what?")
    with flowcut.prune(model, flowcut.Cut(method, tokens=tokens)) as session:
        door = door_tokens(model, session.prepare(inputs))
    assert door == int((inputs["input_ids"] != tiny_video.VIDEO).sum()) + tokens
    assert session.separator_tokens == 0
    record, (video,) = session.record, session.media
    assert record.batch == 3
    kept = video.sources[:, 0].bincount(minlength=3)
    assert kept.sum() == tokens
    assert kept.max() - kept.min() <= 1
    if kind != "LlavaOnevision":  # whose pooled tokens share patches
        assert (record.kept_patch_ids >= 0).sum() // record.patches_per_token == tokens
    for row, patch in video.parts.view(-1, 2).tolist():
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
        for token, sources, shares in zip(video.features, video.parts, video.shares, strict=True):
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
    assert session.media[0].parts.shape[1] == {"VideoLlava": 1}.get(kind, 4)


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
    with flowcut.prune(model, flowcut.FlowCut(tokens=11, per_image=True)) as session, torch.no_grad():
        together = session.prepare(asked(processor, *prompts, side=side))
        logits = model(**together).logits
        for row, prompt in enumerate(prompts):
            alone = session.prepare(asked(processor, prompt, first=row))
            live = together["attention_mask"][row].bool()
            assert torch.equal(together["input_ids"][row][live], alone["input_ids"][0])
            torch.testing.assert_close(logits[row][live], model(**alone).logits[0], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("size", SHAPES, ids=str)
def test_painted_patches(model: Any, processor: Any, size: tuple[int, int]) -> None:
    """In every frame, the patches that change are those whose boxes the paint, or its blur, reaches."""
    width, height = size
    family = family_of(model.config)
    geometries = family.frame_geometries(model, processor.video_processor, size, 2)
    assert [geometry.part for geometry in geometries] == ["frame 1", "frame 2"]
    rng = np.random.default_rng(0)
    embedding = family.vision_tower(model, family.media[-1]).embeddings.patch_embedding
    for painted_frame in (0, 1):
        left, top = int(rng.integers(width)), int(rng.integers(height))
        right, bottom = min(left + max(width // 4, 1), width), min(top + max(height // 4, 1), height)
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
            boxes = geometry.boxes()
            scale = np.array([width / geometry.resized_width, height / geometry.resized_height])

            def overlaps(grow: np.ndarray, boxes: np.ndarray = boxes, paint: Any = (left, top, right, bottom)) -> Any:
                across = (boxes[:, 0] < paint[2] + grow[0]) & (boxes[:, 2] > paint[0] - grow[0])
                return across & (boxes[:, 1] < paint[3] + grow[1]) & (boxes[:, 3] > paint[1] - grow[1])

            assert (changed <= overlaps(2 * np.maximum(scale, 1) + 1e-6)).all()
            assert (overlaps(-scale) <= changed).all()  # a patch that the paint covers by a pixel and more


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
