"""Where answer tokens look, against the matrices that eager attention gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, GemmaConfig, Phi3Config

import flowcut
from flowcut.decoder.answer_recording import AnswerRecording
from flowcut.decoder.recording import LanguageRecording
from flowcut.models.loading import VisionLanguageModel
from flowcut.records.answer_attention import AnswerAttention
from flowcut.records.store import load_run, save_run
from tests import tiny
from tests.decoder.test_language import CUT, DECODERS, GREEDY, SIZES, SPAN, decoder, hooks_of, prompt

VISUAL = torch.arange(3, 15)
WINDOWED = {"mistral, window": range(4), "qwen2, half windows": range(2, 4), "llama": [], "mistral": []}


def recorded(kind: str, cut: Any, **options: Any) -> tuple[AnswerAttention, Any, LanguageRecording]:
    model = decoder(kind)
    with flowcut.record_language(model, SPAN, cut, instruction_end=20) as rec:
        with AnswerRecording(model, VISUAL, 20, rec) as looks:
            model.generate(prompt(), **GREEDY, **options)
        eager = decoder(kind, "eager")
    with flowcut.record_language(eager, SPAN, cut, instruction_end=20):
        out = eager.generate(prompt(), **GREEDY, return_dict_in_generate=True, output_attentions=True)
    return looks.attention, out.attentions, rec


@pytest.mark.parametrize("cut", [None, CUT], ids=["whole", "cut"])
@pytest.mark.parametrize("kind", sorted(DECODERS))
def test_it_is_what_eager_attention_holds(kind: str, cut: Any) -> None:
    attention, matrices, rec = recorded(kind, cut)
    assert attention.visual.shape == attention.weighted_norm.shape == (6, 4, 4, 12)
    assert attention.first.shape == attention.prompt_text.shape == attention.answer_text.shape == (6, 4, 4)
    for step, layers in enumerate(matrices):
        for layer, matrix in enumerate(layers):
            row = matrix[0, :, -1].numpy()
            prompt_rows = rec.record.rows_after[0] if layer > 1 else np.arange(20)
            rows = np.concatenate([prompt_rows, 20 + np.arange(step)])[-row.shape[1] :]
            expected = np.zeros((4, 26), dtype=np.float32)
            expected[:, rows] = row
            reached = np.isin(np.arange(3, 15), prompt_rows)
            found = attention.visual[step, layer]
            np.testing.assert_allclose(found[:, reached], expected[:, 3:15][:, reached], atol=1e-5)
            assert np.isnan(found[:, ~reached]).all()
            np.testing.assert_allclose(attention.first[step, layer], expected[:, 0], atol=1e-5)
            text = expected[:, 1:3].sum(1) + expected[:, 15:20].sum(1)
            np.testing.assert_allclose(attention.prompt_text[step, layer], text, atol=1e-5)
            np.testing.assert_allclose(attention.answer_text[step, layer], expected[:, 20:].sum(1), atol=1e-5)
    whole = attention.visual_mass + attention.text + attention.first
    np.testing.assert_allclose(whole, 1, atol=1e-5)
    assert (attention.answer_text[0] == 0).all()


READ_ONLY = {
    "gemma": GemmaConfig(**SIZES, head_dim=16),
    "phi3": Phi3Config(**SIZES, sliding_window=None),
    "phi3, window": Phi3Config(**SIZES, sliding_window=9),
}
"""Gemma's heads are wider than its width says; Phi-3 has one weight for query, key and value."""


@pytest.mark.parametrize("kind", sorted(READ_ONLY))
def test_decoders_that_are_read_but_not_cut(kind: str) -> None:
    def build(attention: str) -> Any:
        torch.manual_seed(0)
        facts = {**READ_ONLY[kind].to_dict(), "attn_implementation": attention}
        return AutoModelForCausalLM.from_config(type(READ_ONLY[kind])(**facts)).eval()

    model = build("sdpa")
    with AnswerRecording(model, VISUAL, 20) as looks:
        written = model.generate(prompt(), **GREEDY)
    assert torch.equal(written, model.generate(prompt(), **GREEDY))
    out = build("eager").generate(prompt(), **GREEDY, return_dict_in_generate=True, output_attentions=True)
    assert torch.equal(written, out.sequences)
    found = looks.attention
    for step, layers in enumerate(out.attentions):
        for layer, matrix in enumerate(layers):
            row = matrix[0, :, -1].numpy()
            whole = np.zeros((4, 20 + step), dtype=np.float32)
            whole[:, (20 + step) - row.shape[1] :] = row
            np.testing.assert_allclose(found.visual[step, layer], whole[:, 3:15], atol=1e-5)
            np.testing.assert_allclose(found.first[step, layer], whole[:, 0], atol=1e-5)
            text = whole[:, 1:3].sum(1) + whole[:, 15:20].sum(1)
            np.testing.assert_allclose(found.prompt_text[step, layer], text, atol=1e-5)
            np.testing.assert_allclose(found.answer_text[step, layer], whole[:, 20:].sum(1), atol=1e-5)
    assert (found.visual[:, 0].min() == 0) == kind.endswith("window")


def test_weighted_norms_are_those_of_attention_times_value() -> None:
    model = decoder("llama")
    with AnswerRecording(model, VISUAL, 20) as looks, torch.no_grad():
        cache = model(prompt(), use_cache=True).past_key_values
    for layer in range(4):
        values = cache.layers[layer].values[0].repeat_interleave(2, dim=0)[:, 3:15]
        weights = torch.from_numpy(looks.attention.visual[0, layer])
        expected = (weights[..., None] * values).norm(dim=-1)
        np.testing.assert_allclose(looks.attention.weighted_norm[0, layer], expected, atol=1e-5)


def test_without_a_cache_it_is_the_same() -> None:
    cached, _, _ = recorded("llama", CUT)
    whole, _, _ = recorded("llama", CUT, use_cache=False)
    for name in ("visual", "weighted_norm", "first", "prompt_text", "answer_text"):
        np.testing.assert_allclose(getattr(whole, name), getattr(cached, name), atol=1e-5)


def test_looking_changes_nothing_and_leaves_nothing() -> None:
    model = decoder("llama")
    before, stock = hooks_of(model), model.generate(prompt(), **GREEDY)
    with AnswerRecording(model, VISUAL, 20):
        assert torch.equal(model.generate(prompt(), **GREEDY), stock)
    assert hooks_of(model) == before
    assert model.config._attn_implementation == "sdpa"


def test_what_cannot_be_recorded_is_said() -> None:
    model = decoder("llama")
    with AnswerRecording(model, VISUAL, 20) as looks:
        with pytest.raises(flowcut.FlowCutError, match="one prompt at a time, not for 2"):
            model(prompt(batch=2))
        with pytest.raises(flowcut.FlowCutError, match="No answer was recorded"):
            _ = looks.attention
    with pytest.raises(flowcut.FlowCutError, match="clip_vision_model"):
        AnswerRecording(tiny.clip(), VISUAL, 20)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"cache_implementation": "static"}, "from an empty cache, and not a static one"),
        ({"prefill_chunk_size": 7}, r"has 20 tokens and the first pass brings 7: read it in one piece"),
        ({"assistant_model": "itself"}, r"brings 21 tokens at once, as assisted generation does"),
    ],
)
def test_passes_that_are_not_one_token_each_are_refused(options: Any, sentence: str) -> None:
    model = decoder("llama")
    if "assistant_model" in options:
        options = {"assistant_model": decoder("llama"), "num_assistant_tokens": 2}
    with AnswerRecording(model, VISUAL, 20), pytest.raises(flowcut.FlowCutError, match=sentence):
        model.generate(prompt(), **{**GREEDY, **options})


@pytest.fixture(scope="module")
def llava(tmp_path_factory: pytest.TempPathFactory) -> VisionLanguageModel:
    return flowcut.load(tiny.checkpoint(tmp_path_factory.mktemp("model")))


@pytest.mark.parametrize("cut", [None, flowcut.FlowCut(tokens=9)], ids=["whole", "cut"])
def test_a_run_holds_it_on_request(llava: VisionLanguageModel, tmp_path: Path, cut: Any) -> None:
    question = (llava, tiny.picture(), "What is it?", cut)
    run = flowcut.ask(*question, max_new_tokens=4, answer_attention=True)
    plain = flowcut.ask(*question, max_new_tokens=4)
    assert plain.answer_attention is None
    assert [token.id for token in plain.tokens] == [token.id for token in run.tokens]
    assert run.answer_attention is not None
    visual = 64 if cut is None else 9
    assert run.answer_attention.visual.shape == (len(run.tokens), 2, 4, visual)
    assert len(run.answer_attention.visual_rows) == run.visual_tokens
    loaded = load_run(save_run(run, None, tmp_path))
    assert loaded.answer_attention is not None
    for name, array in vars(run.answer_attention).items():
        np.testing.assert_array_equal(getattr(loaded.answer_attention, name), array)
    assert load_run(save_run(plain, None, tmp_path / "plain")).answer_attention is None


def test_a_run_stopped_before_its_first_token_has_none(llava: VisionLanguageModel) -> None:
    run = flowcut.ask(llava, tiny.picture(), "What?", answer_attention=True, stop=lambda: True)
    assert run.answer_attention is None


def test_the_time_it_takes_is_counted_as_recording(llava: VisionLanguageModel) -> None:
    plain = flowcut.ask(llava, tiny.picture(), "what?", max_new_tokens=6, record=False)
    looked = flowcut.ask(llava, tiny.picture(), "what?", max_new_tokens=6, record=False, answer_attention=True)
    assert plain.times.recording == 0
    assert looked.times.recording > 0
