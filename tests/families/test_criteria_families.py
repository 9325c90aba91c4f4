"""Which methods each family allows, and that what it allows works."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlavaConfig, LlavaForConditionalGeneration, Phi3Config

import flowcut
from flowcut.criteria import METHODS
from tests import tiny, tiny_qwen
from tests.families import test_llava_onevision as onevision
from tests.families import test_qwen_vl as qwen

ENCODER = [name for name, method in METHODS.items() if method.stage == "encoder"]
ELSEWHERE = [name for name, method in METHODS.items() if method.stage != "encoder"]
VIDEO = [name for name, method in METHODS.items() if method.of_videos]


def test_llava_allows_all_but_what_needs_a_text_tower() -> None:
    assert list(flowcut.refusals(tiny.llava())) == ["cdpruner", *VIDEO]


@pytest.mark.parametrize("kind", tiny_qwen.KINDS)
def test_qwen_cuts_squares_at_every_stage(kind: str) -> None:
    model, processor = tiny_qwen.model(kind), tiny_qwen.processor(kind)
    reasons = flowcut.refusals(model)
    assert set(reasons) == {
        "cdpruner",
        "downsample",
        *VIDEO,
        "visionzip",
        "vispruner",
        "scope",
        "prunesid",
        "apet",
        "holov",
    }
    assert all(reason.count("\n") == 0 and reason.endswith(".") for reason in reasons.values())
    inputs = qwen.asked(processor, "@ what?")
    for name in sorted(set(METHODS) - set(reasons)):
        patches = {"patches": range(7)} if name == "chosen" else {}
        with torch.no_grad(), flowcut.prune(model, flowcut.Cut(name, tokens=7, **patches), record=False) as session:
            model(**session.prepare(inputs))
            assert session.final_patch_ids is not None
            assert len(session.final_patch_ids) == 28
            if METHODS[name].stage == "encoder" and name != "flowcut":  # which cuts in the decoder once more
                np.testing.assert_array_equal(session.final_patch_ids, session.record.kept_patch_ids[0])
            if METHODS[name].ranks:
                assert session.ranking is not None
                assert (
                    session.ranking[session.final_patch_ids].min()
                    >= np.delete(session.ranking, session.final_patch_ids).max()
                )
    for name, reason in reasons.items():
        if name in VIDEO:  # which video models have for videos
            continue
        with pytest.raises(flowcut.InvalidCut) as caught:
            flowcut.prune(model, flowcut.Cut(name, tokens=7))
        assert str(caught.value) == reason


def test_onevision_cuts_its_tiles_in_the_encoder() -> None:
    model, processor = onevision.build(), onevision.build_processor()
    reasons = flowcut.refusals(model)
    assert set(reasons) == {*ELSEWHERE, "chosen"}
    inputs = onevision.asked(processor, "@ what?")
    for name in sorted(set(METHODS) - set(reasons)):
        with torch.no_grad(), flowcut.prune(model, flowcut.Cut(name, tokens=17), record=False) as session:
            prepared = session.prepare(inputs)
            assert int((prepared["input_ids"] == onevision.IMAGE).sum()) == 17
            assert session.final_patch_ids is not None
            kept = session.record.kept_patch_ids[0]
            assert np.isin(session.final_patch_ids, kept).all()


def test_next_cuts_its_tiles_with_every_method_of_the_encoder() -> None:
    model, processor = tiny.llava_next(), tiny.next_processor()
    inputs = processor(images=tiny.picture(), text="<image> what?", return_tensors="pt")
    for name in [name for name in ENCODER if name not in flowcut.refusals(model)]:
        with torch.no_grad(), flowcut.prune(model, flowcut.Cut(name, tokens=60), record=False) as session:
            prepared = session.prepare(inputs)
            logits = model(**prepared).logits
            tiles = session.record.batch
        assert session.record.kept_patch_ids.shape == (tiles, 30 if name == "flowcut" else 60 // tiles)
        assert torch.isfinite(logits).all()
        assert session.final_patch_ids is not None
        assert np.isin(session.final_patch_ids, session.record.kept_patch_ids[0]).all()


def test_a_decoder_that_cannot_be_cut_says_so() -> None:
    text: Any = Phi3Config(
        vocab_size=260, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, sliding_window=None, pad_token_id=0,
    )  # fmt: skip
    config = LlavaConfig(vision_config=tiny.vision_config(), text_config=text, image_token_index=3)
    reasons = flowcut.refusals(LlavaForConditionalGeneration(config))
    decoder = {name for name, method in METHODS.items() if method.stage == "decoder"}
    assert set(reasons) == {"cdpruner", *VIDEO, *decoder}
    assert all("phi3" in reasons[name] for name in decoder)


def test_what_is_not_a_supported_model() -> None:
    with pytest.raises(flowcut.ModelNotLoaded, match="not supported"):
        flowcut.refusals(tiny.clip())


def test_a_second_cut_follows_flowcut_where_it_does_not_cut_twice_itself() -> None:
    """On Qwen `paper` cuts once, and `official` in the language model too, as its release does."""
    model, processor = tiny_qwen.model("Qwen2VL"), tiny_qwen.processor("Qwen2VL")
    fastv = flowcut.Cut("fastv", tokens=3)
    with pytest.raises(flowcut.InvalidCut, match="cuts Qwen2-VL in its language model too"):
        flowcut.prune(model, flowcut.Cut("flowcut", tokens=7, then=fastv))
    both = flowcut.Cut("flowcut", tokens=7, variant="paper", then=fastv)
    with torch.no_grad(), flowcut.prune(model, both) as session:
        model(**session.prepare(qwen.asked(processor, "@ what?")))
    assert session.final_patch_ids is not None
    assert len(session.final_patch_ids) == 12
