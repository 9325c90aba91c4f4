"""SmolVLM2 and Idefics3 alone: pictures told apart in a prompt, padding, published tiles, words for numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import flowcut
from flowcut.families import FAMILIES
from flowcut.families.processors import pictures_only
from tests import tiny, tiny_shuffle


@pytest.mark.parametrize("kind", tiny_shuffle.SMOL)
@pytest.mark.parametrize("prompt", ["@@@", "@ and\n@", "a<row_1_col_1>@@ b @"])
def test_pictures_are_told_apart(kind: str, prompt: str) -> None:
    model, processor = tiny_shuffle.model(kind), tiny_shuffle.processor(kind)
    sizes = [(100, 80), (64, 10), (30, 90)][: prompt.count("@")]
    pictures = [tiny.picture(seed, size) for seed, size in enumerate(sizes)]
    text = prompt.replace("@", "<image>")
    inputs = processor(images=[pictures], text=[text], return_tensors="pt")
    with flowcut.prune(model, flowcut.FlowCut(5)) as session:
        session.prepare(inputs)
    geometries = [FAMILIES["idefics3"].geometries(model, processor.image_processor, size) for size in sizes]
    rows = [sorted(set(medium.sources[:, 0].tolist())) for medium in session.media]
    assert [len(own) for own in rows] == [len(own) for own in geometries]
    assert [len(medium.features) for medium in session.media] == [5] * len(sizes)


@pytest.mark.parametrize("longest", [2048, 1536, 700])
@pytest.mark.parametrize("size", [(512, 512), (800, 600), (4000, 300), (300, 900), (1, 1), (1025, 700)], ids=str)
def test_the_tiles_of_the_published_processor(size: tuple[int, int], longest: int) -> None:
    """At the published sizes (2048 in tiles of 512), and one that is no multiple of a tile: as many as it makes."""
    side = 384 if longest == 1536 else 512
    processor = tiny_shuffle.processor(
        "Idefics3", size={"longest_edge": longest}, max_image_size={"longest_edge": side}
    )
    pictures = processor.image_processor
    geometries = FAMILIES["idefics3"].geometries(tiny_shuffle.model("Idefics3"), pictures, size)
    made = pictures([[Image.new("RGB", size)]], return_tensors="pt", return_row_col_info=True)
    assert len(geometries) == made["pixel_values"].shape[1]
    rows, cols = made["rows"][0][0], made["cols"][0][0]
    last = geometries[-2] if len(geometries) > 1 else geometries[0]
    assert last.view == (f"crop row {rows}, column {cols}" if rows else "picture")
    np.testing.assert_allclose(last.seen_box()[2:], size, rtol=0.02)


def test_without_splitting_a_picture_is_one_tile() -> None:
    model = tiny_shuffle.model("SmolVLM")
    processor = tiny_shuffle.processor("SmolVLM", do_image_splitting=False)
    geometries = FAMILIES["smolvlm"].geometries(model, processor.image_processor, (100, 40))
    inputs = processor(images=[[tiny.picture(0, (100, 40))]], text=["<image> what?"], return_tensors="pt")
    with flowcut.prune(model, flowcut.FlowCut(5)) as session:
        session.prepare(inputs)
    assert session.record.batch == len(geometries) == 1


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_padded_tiles_are_refused(attention: str) -> None:
    model, processor = tiny_shuffle.model("SmolVLM", attention), tiny_shuffle.processor("SmolVLM")
    inputs = processor(images=[[tiny.picture(0, (100, 80))]], text=["<image> what?"], return_tensors="pt")
    inputs["pixel_attention_mask"][0, 0, 40:] = 0
    with flowcut.prune(model, flowcut.FlowCut(9)) as session, pytest.raises(flowcut.FlowCutError, match="padded"):
        session.prepare(inputs)


def test_a_prompt_that_ends_within_a_picture() -> None:
    model, processor = tiny_shuffle.model("SmolVLM"), tiny_shuffle.processor("SmolVLM")
    inputs = processor(images=[[tiny.picture(0, (100, 80))]], text=["<image>"], return_tensors="pt")
    with flowcut.prune(model, flowcut.FlowCut(9)) as session, pytest.raises(flowcut.FlowCutError, match="ends within"):
        session.prepare({**inputs, "input_ids": inputs["input_ids"][:, :-1]})


@pytest.mark.parametrize("kind", tiny_shuffle.SMOL)
def test_the_prompt_is_the_published_templates(kind: str) -> None:
    processor, family = tiny_shuffle.processor(kind), FAMILIES[kind.lower()]
    asked = "<|im_start|>User:<image>Who?<end_of_utterance>\nAssistant:"
    assert family.prompt(processor, "Who?", None) == asked
    told = "<|im_start|>System: Be brief.<end_of_utterance>\n" + asked.removeprefix("<|im_start|>")
    assert family.prompt(processor, "Who?", "Be brief.") == told
    processor.chat_template = None
    assert family.prompt(processor, "Who?", None) == asked
    if kind == "SmolVLM":
        processor = tiny_shuffle.processor(kind)
        video = family.prompt(processor, "Who?", None, family.media[1])
        assert video == "<|im_start|>User: <video>Who?<end_of_utterance>\nAssistant:"


def test_pictures_without_torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers then has no video processor, and the processor is built without one."""
    whole: Any = tiny_shuffle.processor("SmolVLM")
    parts = (whole.image_processor, whole.tokenizer)
    alone = pictures_only(type(whole))(*parts, None, image_seq_len=16, chat_template=tiny_shuffle.SMOL_TEMPLATE)
    prompt = FAMILIES["smolvlm"].prompt(alone, "Who?", None)
    inputs = alone(images=[tiny.picture(0, (100, 80))], text=prompt, return_tensors="pt")
    assert torch.equal(
        inputs["input_ids"], whole(images=[tiny.picture(0, (100, 80))], text=prompt, return_tensors="pt")["input_ids"]
    )


def test_recorded_as_a_bare_tower() -> None:
    """Without the model around it nobody knows of squares: single patches are cut."""
    tower = tiny_shuffle.model("SmolVLM").model.vision_model
    pixels = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), flowcut.record(tower, flowcut.FlowCut(tokens=9)) as rec:
        out = tower(pixels)
    assert out.last_hidden_state.shape == (2, 9, 32)
    assert (rec.record.relay, rec.record.patches_per_token) == ("proxy", 1)
