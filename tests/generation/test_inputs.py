"""Pruning with a stock model and processor in hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import Dinov2Config, LlavaForConditionalGeneration

import flowcut
from flowcut.generation.drop_tokens import drop_columns
from tests import tiny

IMAGE = tiny.SPECIAL.index("<image>")
CUT = flowcut.FlowCut(tokens=9)


@pytest.fixture(scope="module")
def model() -> LlavaForConditionalGeneration:
    return tiny.llava()


@pytest.fixture(scope="module")
def processor() -> Any:
    return tiny.processor()


def asked(processor: Any, *prompts: str, pictures: int | None = None, side: str = "left") -> Any:
    texts = list(prompts)
    count = sum(text.count("<image>") for text in texts) if pictures is None else pictures
    images = [tiny.picture(seed) for seed in range(count)]
    processor.tokenizer.padding_side = side
    return processor(images=images, text=texts, return_tensors="pt", padding=True)


def generate(model: Any, inputs: Any, **options: Any) -> torch.Tensor:
    wanted = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None, "pad_token_id": 0, **options}
    return model.generate(**inputs, **wanted)[:, inputs["input_ids"].shape[1] :]


def test_without_a_cut_stock_generate_answers_the_same(model: Any, processor: Any) -> None:
    inputs = asked(processor, "<image>\nWhat is it?")
    for options in ({}, {"num_beams": 3}, {"do_sample": True, "temperature": 0.9}):
        torch.manual_seed(0)
        stock = generate(model, inputs, **options)
        with flowcut.prune(model) as session:
            torch.manual_seed(0)
            assert torch.equal(generate(model, session.prepare(inputs), **options), stock)


def test_the_first_features_of_each_picture_take_its_places(model: Any, processor: Any) -> None:
    inputs = asked(processor, "<image>\nWhat is it?")
    with flowcut.prune(model, CUT) as session:
        prepared = session.prepare(inputs)
    assert (prepared["input_ids"] == IMAGE).sum() == 9
    assert prepared["input_ids"].shape == prepared["attention_mask"].shape
    text = inputs["input_ids"][inputs["input_ids"] != IMAGE]
    assert torch.equal(prepared["input_ids"][prepared["input_ids"] != IMAGE], text)
    assert [len(f) for f in prepared["mm_encoder_outputs"]["image"].pooler_output] == [9]


@pytest.mark.parametrize(
    "options",
    [{}, {"num_beams": 3}, {"do_sample": True, "num_return_sequences": 3}, {"num_beams": 4, "num_return_sequences": 2}],
    ids=str,
)
def test_stock_generate_in_its_kinds(model: Any, processor: Any, options: dict) -> None:
    inputs = asked(processor, "<image>\nWhat is it?", "Look: <image> and say.")
    with flowcut.prune(model, CUT) as session:
        torch.manual_seed(0)
        ids = generate(model, session.prepare(inputs), **options)
    assert ids.shape == (2 * options.get("num_return_sequences", 1), 6)


def test_a_padded_batch_answers_as_each_alone(model: Any, processor: Any) -> None:
    prompts = ["<image>\nWhat is it?", "A rather longer prompt before <image> and some words after it."]
    cut = flowcut.FlowCut(tokens=9, per_image=True)
    with flowcut.prune(model, cut) as session:
        together = generate(model, session.prepare(asked(processor, *prompts)))
        kept = session.record.kept_patch_ids
        for row, prompt in enumerate(prompts):
            alone = processor(images=tiny.picture(row), text=prompt, return_tensors="pt")
            assert torch.equal(generate(model, session.prepare(alone))[0], together[row])
            np.testing.assert_array_equal(session.record.kept_patch_ids[0], kept[row])


def test_several_pictures_in_one_prompt(model: Any, processor: Any) -> None:
    inputs = asked(processor, "<image> then <image> and <image>: which?")
    with flowcut.prune(model, CUT) as session:
        prepared = session.prepare(inputs)
        generate(model, prepared)
    assert session.record.kept_patch_ids.shape == (3, 9)
    is_image = (prepared["input_ids"][0] == IMAGE).int()
    starts = (torch.diff(is_image, prepend=torch.zeros(1, dtype=torch.int32)) == 1).nonzero()
    assert len(starts) == 3
    assert is_image.sum() == 27


@pytest.mark.parametrize("side", ["left", "right"])
def test_rows_with_different_numbers_of_pictures(model: Any, processor: Any, side: str) -> None:
    inputs = asked(processor, "<image> and <image> differ?", "<image> is?", side=side)
    with flowcut.prune(model, flowcut.FlowCut(9, per_image=True)) as session, torch.no_grad():
        prepared = session.prepare(inputs)
        logits = model(**prepared).logits
        alone = session.prepare(processor(images=tiny.picture(2), text="<image> is?", return_tensors="pt"))
        expected = model(**alone).logits[0]
    assert (prepared["input_ids"] == IMAGE).sum(dim=1).tolist() == [18, 9]
    live = prepared["attention_mask"][1].bool()
    assert torch.equal(prepared["input_ids"][1][live], alone["input_ids"][0])
    if side == "right":
        torch.testing.assert_close(logits[1][live], expected, atol=1e-4, rtol=0)


def test_decoding_after_the_cut_equals_a_full_prefill(model: Any, processor: Any) -> None:
    inputs = asked(processor, "<image>\nWhat is it?")
    with flowcut.prune(model, CUT) as session:
        prepared = session.prepare(inputs)
        out = model.generate(
            **prepared, max_new_tokens=6, do_sample=False, eos_token_id=None, pad_token_id=0,
            return_dict_in_generate=True, output_logits=True,
        )  # fmt: skip
        again = {**prepared, "input_ids": out.sequences, "attention_mask": torch.ones_like(out.sequences)}
        with torch.no_grad():
            whole = model(**again).logits
    steps = torch.stack(out.logits, dim=1)
    torch.testing.assert_close(whole[:, -7:-1], steps, atol=1e-5, rtol=1e-5)


def test_models_that_keep_cls_keep_it(processor: Any) -> None:
    model = tiny.llava(vision_feature_select_strategy="full")
    own = tiny.processor()
    own.vision_feature_select_strategy = "full"
    inputs = own(images=tiny.picture(), text="<image> what", return_tensors="pt")
    with flowcut.prune(model, CUT) as session:
        prepared = session.prepare(inputs)
        generate(model, prepared)
    assert (prepared["input_ids"] == IMAGE).sum() == 10


def test_models_that_join_several_hidden_states(processor: Any) -> None:
    model = tiny.llava(vision_feature_layer=[-3, -2])
    with flowcut.prune(model, CUT) as session:
        generate(model, session.prepare(asked(processor, "<image> what")))
    assert session.record.steps[-1].layer == 2
    assert session.record.kept_patch_ids.shape == (1, 9)


def test_pruning_alone_records_no_flow(model: Any, processor: Any) -> None:
    inputs = asked(processor, "<image> what")
    with flowcut.prune(model, CUT) as session:
        full = generate(model, session.prepare(inputs))
        kept = session.record.kept_patch_ids
    with flowcut.prune(model, CUT, record=False) as session:
        assert torch.equal(generate(model, session.prepare(inputs)), full)
    assert session.record.layers == ()
    np.testing.assert_array_equal(session.record.kept_patch_ids, kept)
    assert session.recording.seconds["recording"] == 0


def test_prompts_without_a_picture_pass_through(model: Any, processor: Any) -> None:
    inputs = processor(text="no picture here", return_tensors="pt")
    with flowcut.prune(model, CUT) as session:
        prepared = session.prepare(inputs)
        assert torch.equal(prepared["input_ids"], inputs["input_ids"])
        generate(model, prepared)


@pytest.mark.parametrize("change", [1, -1, tiny.N_PATCHES])
def test_placeholders_that_do_not_match(model: Any, processor: Any, change: int) -> None:
    inputs = asked(processor, "<image> what")
    ids = inputs["input_ids"]
    more = torch.full((1, max(change, 0)), IMAGE)
    ids = torch.cat([more, ids[:, : ids.shape[1]]], dim=1) if change > 0 else ids[:, ids[0].tolist().index(IMAGE) + 1 :]
    with flowcut.prune(model, CUT) as session, pytest.raises(flowcut.FlowCutError, match="write <image> once"):
        session.prepare({**inputs, "input_ids": ids})


def test_other_families_are_refused_by_name() -> None:
    model = tiny.llava()
    model.config.vision_config = Dinov2Config()
    with pytest.raises(flowcut.FlowCutError, match=r"'dinov2' vision tower.*choose LLaVA-1.5"):
        flowcut.prune(model)


def test_ordinary_mistakes_get_a_sentence(model: Any, processor: Any) -> None:
    number: Any = 64
    name: Any = "embedded"
    with pytest.raises(flowcut.InvalidCut, match="cut is a int"):
        flowcut.prune(model, number)
    with pytest.raises(flowcut.InvalidCut, match="cut is a int"):
        flowcut.record(model, number)
    with pytest.raises(flowcut.FlowCutError, match="hf_model is a str: give a transformers model"):
        flowcut.prune(name)
    with pytest.raises(flowcut.FlowCutError, match="model is a str: give what"):
        flowcut.ask(name, tiny.picture(), "what?")
    session = flowcut.prune(model, CUT)
    with pytest.raises(flowcut.FlowCutError, match="inside the with"):
        session.prepare(asked(processor, "<image> what"))


def test_the_model_is_left_as_it_was(model: Any, processor: Any) -> None:
    inputs = asked(processor, "<image> what")
    stock = generate(model, inputs)
    with pytest.raises(flowcut.FlowCutError, match="no input_ids"), flowcut.prune(model, CUT) as session:
        session.prepare({"pixel_values": inputs["pixel_values"]})
    assert torch.equal(generate(model, inputs), stock)
    assert model.model.vision_tower.config._attn_implementation == "sdpa"


def test_columns_are_dropped_and_filled_on_the_asked_side() -> None:
    values = torch.tensor([[1, 2, 3], [4, 5, 6]])
    stays = torch.tensor([[True, False, True], [False, False, True]])
    assert drop_columns(values, stays, filler=9, pad_left=True).tolist() == [[1, 3], [9, 6]]
    assert drop_columns(values, stays, filler=9, pad_left=False).tolist() == [[1, 3], [6, 9]]
