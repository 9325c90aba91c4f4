"""Qwen3.5: every fourth decoder layer attends; what is read of it, what is refused, and what it costs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import flowcut
from flowcut.decoder.answer_recording import AnswerRecording
from flowcut.generation.flops import mixers
from flowcut.records.answer_attention import AnswerAttention
from tests import tiny, tiny_qwen3
from tests.families import test_qwen_vl as qwen

CUT = flowcut.FlowCut(tokens=7)


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_qwen3.model("Qwen3_5")


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return flowcut.load(tiny_qwen3.checkpoint("Qwen3_5", tmp_path_factory.mktemp("qwen")))


def test_the_attention_of_answers_is_eager_attention_of_the_layers_that_attend(model: Any) -> None:
    inputs = qwen.asked(tiny_qwen3.processor("Qwen3_5"), "@ what?")
    rows = (inputs["input_ids"][0] == 5).nonzero()[:, 0]
    with torch.no_grad(), AnswerRecording(model, rows, inputs["input_ids"].shape[1]) as recording:
        model(**inputs)
    found = recording.attention
    eager = tiny_qwen3.model("Qwen3_5")
    eager.set_attn_implementation("eager")
    with torch.no_grad():
        weights = eager(**inputs, output_attentions=True).attentions
    assert found.decoder_layers == (3, 7)
    for ours, theirs in zip(found.visual[0], (one for one in weights if one is not None), strict=True):
        np.testing.assert_allclose(ours, theirs[0, :, -1, rows].numpy(), atol=1e-5)


def test_the_layers_survive_the_file(loaded: Any, tmp_path: Path) -> None:
    run = flowcut.ask(loaded, tiny.picture(0, (250, 140)), "What?", CUT, max_new_tokens=3, answer_attention=True)
    assert run.answer_attention is not None
    again = AnswerAttention.load(run.answer_attention.save(tmp_path / "attention"))
    assert again.decoder_layers == (3, 7)
    np.testing.assert_array_equal(again.visual, run.answer_attention.visual)
    assert run.record is not None
    assert any("every fourth decoder layer" in note for note in run.record.notes)
    assert any("prunes once" in sentence for sentence in run.record.differs_from_release)


@pytest.mark.parametrize("name", ["fastv", "dart", "pyramiddrop", "sparsevlm"])
def test_cuts_in_the_decoder_are_refused_with_the_reason(model: Any, name: str) -> None:
    with pytest.raises(flowcut.InvalidCut, match="only every fourth attends"):
        flowcut.prune(model, flowcut.Cut(name, tokens=7))
    with pytest.raises(flowcut.FlowCutError, match="no supported language model in this 'qwen3_5_text' model"):
        flowcut.record_language(model.model.language_model, (0, 4), flowcut.Cut(name, tokens=2))


def test_its_cache_is_keys_and_values_of_the_layers_that_attend_and_states_of_the_others(loaded: Any) -> None:
    picture = tiny.picture(0, (250, 140))
    whole = flowcut.ask(loaded, picture, "What?", max_new_tokens=3)
    cut = flowcut.ask(loaded, picture, "What?", CUT, max_new_tokens=3)
    for layer, (before, after) in enumerate(zip(whole.kv_bytes, cut.kv_bytes, strict=True)):
        assert before > after if layer % 4 == 3 else before == after > 0
    state = 4 * 8 * 8 * 4  # heads, widths of value and key, bytes
    convolved = (2 * 2 * 8 + 4 * 8) * 4 * 4  # channels, kernel, bytes
    assert whole.kv_bytes[0] == state + convolved


def test_flops_are_those_of_its_linear_layers_and_of_both_kinds_of_attention(loaded: Any) -> None:
    """PyTorch counts products of matrices: of a prefill all but the states of linear attention, which has its own."""
    picture, text = tiny.picture(0, (250, 140)), loaded.model.config.text_config
    run = flowcut.ask(loaded, picture, "What?", max_new_tokens=1)
    inputs = qwen.asked(loaded.processor, "@")
    inputs = loaded.processor(images=[picture], text=[run.prompt], return_tensors="pt")
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
        loaded.model(**inputs, logits_to_keep=1)
    counted = counter.get_flop_counts()
    tower = sum(counted["Qwen3_5ForConditionalGeneration.model.visual"].values())
    assert run.flops.vision + run.flops.projector == pytest.approx(tower, rel=0.01)
    length, linear = run.prompt_tokens, {(0.0, 2 * 4 * 64 + 6 * 4 * 8 * 8)}
    assert set(mixers(text)[:3]) == linear
    assert mixers(text)[3] == (4 * 4 * 16, 0.0)
    attention = counted["Qwen3_5ForConditionalGeneration.model.language_model.layers.3.self_attn"]
    ours = length * 2 * (32 * 2 * 64 + 2 * 32 * 32 + 64 * 32) + 4 * 64 * length * (length + 1) / 2
    square = 4 * 64 * length * (length - 1) / 2  # PyTorch counts the other half of the square, too
    assert sum(attention.values()) == pytest.approx(ours + square, rel=1e-6)
