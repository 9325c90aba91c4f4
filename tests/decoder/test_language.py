"""Recording and pruning inside a language model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    GemmaConfig,
    LlamaConfig,
    MistralConfig,
    PreTrainedModel,
    Qwen2Config,
)

import flowcut
from flowcut.records.language import LanguageRecord
from flowcut.records.vision import PADDING_ID
from tests import tiny

SIZES = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 128, "bos_token_id": 1, "eos_token_id": 2,
    "pad_token_id": 0, "initializer_range": 0.1,
}  # fmt: skip
DECODERS = {
    "llama": LlamaConfig(**SIZES),
    "mistral": MistralConfig(**SIZES, sliding_window=None),
    "mistral, window": MistralConfig(**SIZES, sliding_window=9),
    "gemma": GemmaConfig(**SIZES, head_dim=8),
    "gemma3, half windows": Gemma3TextConfig(
        **SIZES,
        head_dim=8,
        sliding_window=9,
        query_pre_attn_scalar=8,
        layer_types=["sliding_attention", "full_attention"] * 2,
    ),
    "qwen2, half windows": Qwen2Config(**SIZES, use_sliding_window=True, sliding_window=9, max_window_layers=2),
}
CUT = flowcut.FlowCut(tokens=5)
SPAN = (3, 12)
GREEDY = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}


def decoder(kind: str = "llama", attention: str = "sdpa") -> PreTrainedModel:
    torch.manual_seed(0)
    config = DECODERS[kind].__class__(**{**DECODERS[kind].to_dict(), "attn_implementation": attention})
    return AutoModelForCausalLM.from_config(config).eval()


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    return decoder()


def prompt(length: int = 20, seed: int = 0, batch: int = 1) -> torch.Tensor:
    return torch.randint(3, 64, (batch, length), generator=torch.Generator().manual_seed(seed))


def padded(prompts: list[torch.Tensor], side: str = "left") -> tuple[torch.Tensor, torch.Tensor]:
    longest = max(row.shape[1] for row in prompts)
    ids, mask = torch.zeros(2, len(prompts), longest, dtype=torch.long)
    for index, row in enumerate(prompts):
        place = slice(longest - row.shape[1], None) if side == "left" else slice(0, row.shape[1])
        ids[index, place], mask[index, place] = row[0], 1
    return ids, mask


def hooks_of(model: PreTrainedModel) -> list[Any]:
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_forward_hooks_with_kwargs", "_forward_pre_hooks_with_kwargs")
    return [hook for part in model.modules() for kind in kinds for hook in getattr(part, kind).items()]


@pytest.mark.parametrize("cut", [None, flowcut.FlowCut(tokens=12), flowcut.FlowCut(tokens=500)], ids=str)
def test_keeping_all_is_the_stock_model_to_the_bit(model: PreTrainedModel, cut: Any) -> None:
    ids = prompt()
    with torch.no_grad():
        stock, tokens = model(ids).logits, model.generate(ids, **GREEDY)
        with flowcut.record_language(model, SPAN, cut) as rec:
            assert torch.equal(model(ids).logits, stock)
            assert torch.equal(model.generate(ids, **GREEDY), tokens)
    np.testing.assert_array_equal(rec.record.kept_visual_ids, np.arange(12)[None])
    assert (rec.record.score is not None) == (cut is None)
    assert any("Nothing was cut" in note for note in rec.record.notes) == (cut is not None)


def test_nothing_of_ours_is_left_also_after_an_exception(model: PreTrainedModel) -> None:
    before, settings = hooks_of(model), model.config._attn_implementation
    stock = model(prompt()).logits
    recording = flowcut.record_language(model, SPAN, CUT)

    def fail() -> None:
        with recording:
            model(prompt())
            assert model.config._attn_implementation == "flow_sdpa"
            _ = 1 / 0

    with pytest.raises(ZeroDivisionError):
        fail()
    with pytest.raises(flowcut.FlowCutError), flowcut.record_language(model, (3, 99), CUT):
        model(prompt())
    assert hooks_of(model) == before
    assert model.config._attn_implementation == settings == "sdpa"
    assert torch.equal(model(prompt()).logits, stock)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("kind", sorted(DECODERS))
def test_decoding_equals_a_full_cut_prefill(kind: str, attention: str) -> None:
    model, ids = decoder(kind, attention), prompt(batch=2)
    with torch.no_grad(), flowcut.record_language(model, SPAN, CUT, instruction_end=20) as rec:
        out = model.generate(ids, **GREEDY, return_dict_in_generate=True, output_logits=True)
        kept = rec.record.kept_visual_ids
        whole = model(out.sequences, use_cache=False).logits
    np.testing.assert_array_equal(rec.record.kept_visual_ids, kept)
    torch.testing.assert_close(whole[:, -7:-1], torch.stack(out.logits, dim=1), atol=1e-5, rtol=1e-5)
    lengths = [out.past_key_values.get_seq_length(layer) for layer in range(4)]
    assert lengths == [25, 25, 18, 18]


@pytest.mark.parametrize("options", [{"num_beams": 3}, {"num_beams": 4, "num_return_sequences": 2}], ids=str)
def test_beams_equal_beams_without_a_cache(model: PreTrainedModel, options: dict) -> None:
    ids, mask = padded([prompt(20, 1), prompt(16, 2)])
    spans = [(3, 12), (6, 9)]
    options = {**GREEDY, **options, "return_dict_in_generate": True, "output_scores": True}
    with flowcut.record_language(model, spans, CUT, instruction_end=20) as rec:
        cached = model.generate(ids, attention_mask=mask, **options)
        kept = rec.record.kept_visual_ids
        whole = model.generate(ids, attention_mask=mask, use_cache=False, **options)
    assert torch.equal(cached.sequences, whole.sequences)
    torch.testing.assert_close(cached.sequences_scores, whole.sequences_scores, atol=1e-5, rtol=1e-5)
    assert kept.shape == (2, 5)
    np.testing.assert_array_equal(rec.record.span_prompt, [0, 1])


@pytest.mark.parametrize("kind", sorted(DECODERS))
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_rows_of_a_batch_are_independent(kind: str, attention: str) -> None:
    """Prompts and spans of unequal length, left padding, one prompt too short to cut, one without a picture."""
    model = decoder(kind, attention)
    prompts = [prompt(22, 1), prompt(17, 2), prompt(11, 3), prompt(9, 4)]
    spans: list[Any] = [(2, 14), (5, 7), (1, 4), []]
    ids, mask = padded(prompts)
    shifted = [(22 - row.shape[1] + span[0], span[1]) if span else [] for row, span in zip(prompts, spans, strict=True)]
    with torch.no_grad(), flowcut.record_language(model, shifted, CUT) as rec:
        together = model.generate(ids, attention_mask=mask, **GREEDY, return_dict_in_generate=True, output_logits=True)
        record = rec.record
        assert record.rows_after.shape == (4, 15)
        assert record.removed.tolist() == [9, 2, 0, 0]
        assert any("left padding" in sentence for sentence in record.differs_from_release)
        for index, (row, span) in enumerate(zip(prompts, spans, strict=True)):
            rec.aim([span])
            alone = model.generate(row, **GREEDY, return_dict_in_generate=True, output_logits=True)
            assert torch.equal(alone.sequences[0, -6:], together.sequences[index, -6:])
            for one, many in zip(alone.logits, together.logits, strict=True):
                torch.testing.assert_close(one[0], many[index], atol=1e-4, rtol=1e-4)
            if span:
                np.testing.assert_array_equal(rec.record.kept(0), record.kept(index))
    assert record.score is not None
    assert np.isnan(record.score[2]).all()


def test_right_padding_asks_with_each_prompts_last_token(model: PreTrainedModel) -> None:
    prompts = [prompt(20, 1), prompt(17, 2)]
    ids, mask = padded(prompts, side="right")
    with torch.no_grad(), flowcut.record_language(model, [(3, 12), (2, 8)], CUT) as rec:
        together = model(ids, attention_mask=mask).logits
        record = rec.record
        for index, span in enumerate([(3, 12), (2, 8)]):
            rec.aim(span)
            alone = model(prompts[index]).logits[0]
            np.testing.assert_array_equal(rec.record.kept(0), record.kept(index))
            live = np.isin(record.rows_after[index], np.arange(prompts[index].shape[1]))
            torch.testing.assert_close(together[index][live], alone, atol=1e-5, rtol=1e-4)


def test_several_pictures_in_one_prompt_are_spans_of_their_own(model: PreTrainedModel) -> None:
    ids = prompt(30)
    with torch.no_grad(), flowcut.record_language(model, [[(2, 9), (15, 11)]], CUT) as rec:
        model(ids)
        both = rec.record
        for index, span in enumerate([(2, 9), (15, 11)]):
            rec.aim(span)
            model(ids)
            np.testing.assert_array_equal(rec.record.kept_visual_ids[0], both.kept(index))
    assert any("several pictures" in sentence for sentence in both.differs_from_release)
    rows = both.rows_after[0]
    assert len(rows) == 30 - 9 - 11 + 10
    np.testing.assert_array_equal(rows[(rows >= 2) & (rows < 11)], 2 + both.kept(0))
    np.testing.assert_array_equal(both.positions_after[0], np.arange(20))


def test_the_highest_scores_stay_and_margins_say_by_how_much(model: PreTrainedModel) -> None:
    with torch.no_grad(), flowcut.record_language(model, SPAN, CUT, layer=2) as rec:
        out = model(prompt(), use_cache=True)
    record = rec.record
    assert record.score is not None
    assert record.margin is not None
    assert record.relation is not None
    assert record.semantic is not None
    assert record.value_norm is not None
    assert sorted(np.argsort(-record.score[0])[:5]) == record.kept(0).tolist()
    assert record.relation[0].sum() == pytest.approx(1, abs=1e-5)
    assert record.semantic[0].sum() == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(record.score, (record.relation + record.semantic) * record.value_norm, rtol=1e-5)
    assert sorted(np.flatnonzero(record.margin[0] >= 0)) == record.kept(0).tolist()
    assert [out.past_key_values.get_seq_length(layer) for layer in range(4)] == [20, 20, 20, 13]
    assert record.layer == 2


def test_scores_are_those_of_eager_attention(model: PreTrainedModel) -> None:
    """rel from the attention matrix that eager attention gives, renormalised over the visual tokens head by head."""
    eager = decoder(attention="eager")
    with torch.no_grad():
        row = eager(prompt(), output_attentions=True).attentions[1][0, :, -1, 3:15]
        with flowcut.record_language(model, SPAN) as rec:
            model(prompt())
    assert rec.record.relation is not None
    expected = (row / row.sum(dim=-1, keepdim=True)).mean(dim=0).numpy()
    np.testing.assert_allclose(rec.record.relation[0], expected, atol=1e-5)


def test_a_cache_of_other_prompts_is_left_alone(model: PreTrainedModel) -> None:
    ids = prompt()
    with torch.no_grad():
        stock = model(ids, use_cache=True).past_key_values
        whole = model(torch.cat([ids, ids[:, :1]], dim=1)).logits[:, -1]
        with flowcut.record_language(model, SPAN, CUT) as rec:
            step = model(ids[:, :1], past_key_values=stock).logits[:, -1]
        assert not rec.recorded
    torch.testing.assert_close(step, whole, atol=1e-5, rtol=1e-5)


def test_two_caches_in_turn_keep_their_own_cut(model: PreTrainedModel) -> None:
    first, second = prompt(20, 1), prompt(20, 2)
    with torch.no_grad(), flowcut.record_language(model, SPAN, CUT, instruction_end=20):
        caches = [model(ids, use_cache=True).past_key_values for ids in (first, second)]
        for ids, cache in zip((first, second), caches, strict=True):
            more = ids[:, :3]  # several tokens at once, as the next turn of a conversation
            step = model(more, past_key_values=cache).logits
            whole = model(torch.cat([ids, more], dim=1), use_cache=False).logits[:, -3:]
            torch.testing.assert_close(step, whole, atol=1e-5, rtol=1e-5)


def test_a_record_round_trips(model: PreTrainedModel, tmp_path: Path) -> None:
    ids, mask = padded([prompt(20, 1), prompt(16, 2)])
    with torch.no_grad(), flowcut.record_language(model, [(3, 12), (6, 3)], CUT, facts={"family": "test"}) as rec:
        model(ids, attention_mask=mask)
    loaded = LanguageRecord.load(rec.record.save(tmp_path / "language.safetensors"))
    for name, value in vars(rec.record).items():
        if isinstance(value, np.ndarray):
            np.testing.assert_array_equal(getattr(loaded, name), value)
            assert getattr(loaded, name).dtype == value.dtype
        else:
            assert getattr(loaded, name) == value
    assert loaded.kept_visual_ids[1].tolist() == [0, 1, 2, PADDING_ID, PADDING_ID]
    with pytest.raises(flowcut.InvalidRecord, match="flowcut-record"):
        flowcut.FlowRecord.load(tmp_path / "language.safetensors")


@pytest.mark.parametrize(
    ("visual", "options", "sentence"),
    [
        ((15, 8), {}, r"start 15, length 8.*20 positions"),
        ((-1, 8), {}, r"start -1"),
        ((3, 0), {}, r"length 0"),
        ([(3, 4), (3, 4), (3, 4)], {}, r"spans for 3 prompts and the batch holds 1"),
        ([[(3, 4), (5, 4)]], {}, r"not overlap"),
        ([(3.5, 4)], {}, r"whole numbers"),
        ([], {}, r"holds no spans"),
        ((3, 12), {"instruction_end": 9}, r"instruction_end is 9.*from 15"),
        ((3, 12), {"instruction_end": 21}, r"instruction_end is 21"),
        ((3, 12), {"layer": 4}, r"layer is 4 and the language model has 4 layers: choose 0 to 3"),
        ((3, 12), {"layer": -1}, r"layer is -1"),
        ((3, 12), {"layer": 1.5}, r"layer is 1\.5"),
        ((3, 12), {"cut": flowcut.Cut("random", tokens=3)}, r"'random' has no stage"),
        ((3, 12), {"cut": 5}, r"cut is a int"),
    ],
)
def test_what_cannot_be_used_is_said_in_one_sentence(
    model: PreTrainedModel, visual: Any, options: dict, sentence: str
) -> None:
    with (
        pytest.raises(flowcut.FlowCutError, match=sentence) as caught,
        flowcut.record_language(model, visual, **{"cut": CUT, **options}),
    ):
        model(prompt())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("tokens", [0, float("nan"), -3, None])
def test_budgets_that_are_no_budget(tokens: Any) -> None:
    with pytest.raises(flowcut.InvalidCut, match="tokens is"):
        flowcut.FlowCut(tokens=tokens)


def test_models_without_a_decoder_that_is_known(model: PreTrainedModel) -> None:
    with pytest.raises(flowcut.FlowCutError, match=r"clip_vision_model.*Llama, Mistral, Qwen2"):
        flowcut.record_language(tiny.clip(), SPAN, CUT)
    with flowcut.record_language(model, SPAN, CUT) as rec, pytest.raises(flowcut.FlowCutError, match="Nothing was"):
        _ = rec.record


def test_padding_in_a_span_and_ready_made_masks_are_refused(model: PreTrainedModel) -> None:
    ids, mask = padded([prompt(20, 1), prompt(16, 2)])
    with flowcut.record_language(model, SPAN, CUT), pytest.raises(flowcut.FlowCutError, match="covers padding"):
        model(ids, attention_mask=mask)
    with flowcut.record_language(model, SPAN, CUT), pytest.raises(flowcut.FlowCutError, match="static cache"):
        model.generate(prompt(), cache_implementation="static", **GREEDY)
