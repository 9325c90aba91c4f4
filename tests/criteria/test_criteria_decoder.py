"""Criteria inside the language model: by hand, against slow derivations, against eager attention, and decoding."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel

import flowcut
from flowcut.criteria import METHODS, DecoderEvidence, DecoderPlan
from flowcut.criteria.decoder import dart, pyramid_layers, raters, second_layer, sparse_layers, step_tokens
from flowcut.decoder.answer_recording import AnswerRecording
from flowcut.models.loading import VisionLanguageModel
from tests import tiny
from tests.decoder.test_language import DECODERS, GREEDY, SIZES, SPAN, decoder, hooks_of, padded, prompt

DECODER = [name for name, method in METHODS.items() if method.stage == "decoder"]
QUESTION = "What is in the picture?"


@cache
def deep(attention: str = "sdpa", n_layers: int = 8) -> PreTrainedModel:
    torch.manual_seed(0)
    sizes = {**SIZES, "num_hidden_layers": n_layers, "initializer_range": 0.2}
    return AutoModelForCausalLM.from_config(LlamaConfig(**sizes, attn_implementation=attention)).eval()


def cut_of(name: str, tokens: int = 5) -> flowcut.CutConfig:
    return flowcut.Cut(name, tokens=tokens)


def plan_of(name: str) -> DecoderPlan:
    plan = METHODS[name].decoder
    assert plan is not None
    return plan


def fates(record: flowcut.LanguageRecord) -> tuple[np.ndarray, np.ndarray]:
    """Of the first span, what its visual tokens were ranked by and when each went."""
    assert record.ranking is not None
    assert record.pruned_at_layer is not None
    return record.ranking[0], record.pruned_at_layer[0]


def test_layers_of_the_papers_and_of_other_depths() -> None:
    """A layer here is the last one that reads the tokens that go."""
    assert second_layer(32) == (1,)
    assert pyramid_layers(32) == (7, 15, 23)
    assert sparse_layers(32) == (2, 6, 15)
    assert (second_layer(4), pyramid_layers(4), sparse_layers(4)) == ((1,), (0, 1, 2), (0, 1))
    assert (second_layer(2), pyramid_layers(2), sparse_layers(2)) == ((0,), (0,), (0,))


def test_the_same_share_goes_at_each_step() -> None:
    assert [step_tokens(576, 72, step, 3) for step in range(3)] == [288, 144, 72]  # PyramidDrop's lambda = 1/2
    assert [step_tokens(576, 64, step, 3) for step in range(3)] == [277, 133, 64]
    assert [step_tokens(5, 64, step, 3) for step in range(3)] == [5, 5, 5]
    assert [step_tokens(9, 1, step, 1) for step in range(1)] == [1]


def test_raters_are_the_text_tokens_most_like_the_picture() -> None:
    visual, text = np.array([[1.0, 0], [1, 0], [0, 1]]), np.array([[3.0, 0], [0, 3], [0, 0]])
    assert raters(visual, text).tolist() == [0]
    np.testing.assert_array_equal(raters(visual, np.ones((2, 2))), [0, 1])  # all alike: all rate


def test_dart_by_hand() -> None:
    """Keys are largest at 2, 4, 3, then 0 and 1 alike: with T = 2 the pivots alone, with T = 5 also what is left."""
    states = np.array([[1.0, 0], [0.9, 0.1], [0, 1], [-1, 0.2], [0.1, -1]])
    keys = np.array([[0.0, 1], [1, 0], [-5, 5], [2, 0], [0, 3]])
    text = np.array([[1.0, 0.0]])
    order = np.argsort(-naive(keys, np.ones((1, 2)), states, text, 6), kind="stable")
    assert order[:4].tolist() == [2, 4, 3, 0]  # all four image pivots, by norm of key
    evidence = DecoderEvidence(5, visual_keys=keys, text_keys=np.ones((1, 2)), visual_states=states, text_states=text)
    assert dart(evidence, dart_as("paper", 2)).tolist() == [0, 0, 2, 0, 1]
    assert dart(evidence, dart_as("paper", 5)).tolist() == [2, 1, 5, 3, 4]


def dart_as(variant: str, tokens: int) -> flowcut.CutConfig:
    return flowcut.Cut("dart", tokens=tokens, variant=variant)


def naive(
    keys: np.ndarray, text_keys: np.ndarray, states: np.ndarray, text: np.ndarray, tokens: int, start: int | None = None
) -> np.ndarray:
    """DART, token by token; as released where it is said in which row of the prompt the picture starts."""

    def largest(of: np.ndarray) -> list[int]:
        return sorted(range(len(of)), key=lambda i: -np.abs(of[i]).sum())[:4]

    def cosine(a: np.ndarray, b: np.ndarray) -> float:
        return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))

    chosen = largest(keys)[:tokens]
    pivots = [states[i] for i in chosen] + [text[i] for i in largest(text_keys)]
    if start is not None:
        by_row = {start + i: states[i] for i in chosen} | {start + len(keys) + i: text[i] for i in largest(text_keys)}
        pivots = [by_row[row] for row in set(by_row)]
    shares = [(tokens - len(chosen)) // len(pivots)] * len(pivots)
    for place in range((tokens - len(chosen)) % len(pivots)):
        shares[place] += 1
    for pivot, share in zip(pivots, shares, strict=True):
        for _ in range(share):
            left = [i for i in range(len(states)) if i not in chosen]
            chosen += [min(left, key=lambda i: cosine(pivot, states[i]))] if left else []
    ranking = np.zeros(len(states))
    for place, i in enumerate(chosen):
        ranking[i] = len(chosen) - place
    return ranking


@pytest.mark.parametrize("variant", ["official", "paper"])
@pytest.mark.parametrize("tokens", [2, 4, 11, 26])
def test_dart_is_the_slow_one(tokens: int, variant: str) -> None:
    draw, official = np.random.default_rng(tokens), variant == "official"
    parts = [draw.normal(size=shape) for shape in ((30, 6), (7, 6), (30, 5), (7, 5))]
    names = ("visual_keys", "text_keys", "visual_states", "text_states")
    rows = {"visual_rows": 35 + np.arange(30), "text_rows": 65 + np.arange(7)} if official else {}
    ranking = dart(DecoderEvidence(30, **dict(zip(names, parts, strict=True)), **rows), dart_as(variant, tokens))
    np.testing.assert_array_equal(ranking, naive(*parts, tokens, 35 if official else None))
    assert (ranking > 0).sum() == tokens


@pytest.mark.parametrize("name", DECODER)
@pytest.mark.parametrize("tokens", [12, 500])
def test_keeping_all_is_the_stock_model_to_the_bit(name: str, tokens: int) -> None:
    model, ids = deep(), prompt()
    with torch.no_grad():
        stock, written = model(ids).logits, model.generate(ids, **GREEDY)
        with flowcut.record_language(model, SPAN, cut_of(name, tokens)) as rec:
            assert torch.equal(model(ids).logits, stock)
            assert torch.equal(model.generate(ids, **GREEDY), written)
    assert rec.record.ranking is None
    assert any("Nothing was cut" in note for note in rec.record.notes)


@pytest.mark.parametrize(
    ("kind", "attention"),
    [("deep llama", "sdpa"), ("deep llama", "eager"), ("mistral, window", "sdpa"), ("qwen2, half windows", "eager")],
)
@pytest.mark.parametrize("name", DECODER)
def test_decoding_equals_a_full_cut_prefill(name: str, kind: str, attention: str) -> None:
    model = deep(attention) if kind not in DECODERS else decoder(kind, attention)
    ids = prompt(batch=2)
    with torch.no_grad(), flowcut.record_language(model, SPAN, cut_of(name), instruction_end=20) as rec:
        out = model.generate(ids, **GREEDY, return_dict_in_generate=True, output_logits=True)
        kept = rec.record.kept_visual_ids
        whole = model(out.sequences, use_cache=False).logits
    np.testing.assert_array_equal(rec.record.kept_visual_ids, kept)
    assert kept.shape == (2, 5)
    torch.testing.assert_close(whole[:, -7:-1], torch.stack(out.logits, dim=1), atol=2e-5, rtol=1e-4)
    steps = plan_of(name).layers(len(model.model.layers))
    lengths = [out.past_key_values.get_seq_length(layer) for layer in range(len(model.model.layers))]
    counts = [step_tokens(12, 5, step, len(steps)) for step in range(len(steps))]
    for layer, length in enumerate(lengths):
        done = [count for count, step in zip(counts, steps, strict=True) if step < layer]
        assert length == 25 - 12 + (done[-1] if done else 12)


@pytest.mark.parametrize("name", DECODER)
def test_rows_of_a_padded_batch_are_independent(name: str) -> None:
    model = deep()
    prompts = [prompt(22, 1), prompt(17, 2), prompt(11, 3), prompt(9, 4)]
    spans: list[Any] = [(2, 14), (5, 7), (1, 4), []]
    ids, mask = padded(prompts)
    shifted = [(22 - row.shape[1] + span[0], span[1]) if span else [] for row, span in zip(prompts, spans, strict=True)]
    with torch.no_grad(), flowcut.record_language(model, shifted, cut_of(name)) as rec:
        together = model.generate(ids, attention_mask=mask, **GREEDY, return_dict_in_generate=True, output_logits=True)
        record = rec.record
        for index, (row, span) in enumerate(zip(prompts, spans, strict=True)):
            rec.aim([span])
            alone = model.generate(row, **GREEDY, return_dict_in_generate=True, output_logits=True)
            for one, many in zip(alone.logits, together.logits, strict=True):
                torch.testing.assert_close(one[0], many[index], atol=1e-4, rtol=1e-4)
            if span:
                np.testing.assert_array_equal(rec.record.kept(0), record.kept(index))
    assert record.ranking is not None
    assert np.isnan(record.ranking[2]).all()
    assert record.removed.tolist() == [9, 2, 0, 0]


def attentions(n_layers: int = 8) -> list[np.ndarray]:
    """Head-mean attention of every layer of the uncut model, [L, L] each."""
    with torch.no_grad():
        out = deep("eager", n_layers)(prompt(), output_attentions=True)
    return [layer[0].mean(dim=0).numpy() for layer in out.attentions]


def cut_ids(name: str, model: PreTrainedModel | None = None) -> flowcut.LanguageRecord:
    model = deep() if model is None else model
    with torch.no_grad(), flowcut.record_language(model, SPAN, cut_of(name)) as rec:
        model(prompt())
    return rec.record


def test_fastv_keeps_what_the_last_token_attends_to_in_layer_one() -> None:
    record, row = cut_ids("fastv"), attentions()[1][-1, 3:15]
    assert record.layer == 1
    np.testing.assert_allclose(fates(record)[0], row, atol=1e-5)
    assert record.kept(0).tolist() == sorted(np.argsort(-row)[:5])


def test_pyramiddrop_looks_at_the_layer_behind_the_cut() -> None:
    """8 layers: before layers 2, 4 and 6; the first to go are those of least attention in the uncut layer 2."""
    record, row = cut_ids("pyramiddrop"), attentions()[2][-1, 3:15]
    first = step_tokens(12, 5, 0, 3)
    assert first == 9
    _, pruned_at = fates(record)
    assert sorted(np.argsort(-row)[first:]) == np.flatnonzero(pruned_at == 1).tolist()
    assert sorted(set(pruned_at.tolist())) == [-1, 1, 3, 5]
    assert record.layer == 5


def test_sparsevlm_asks_its_raters() -> None:
    model, record = deep(), cut_ids("sparsevlm")
    embedded = model.get_input_embeddings()(prompt())[0].detach().double().numpy()
    shares = np.exp(embedded[3:15] @ embedded[15:].T)
    liking = (shares / shares.sum(axis=1, keepdims=True)).mean(axis=0)
    rows = 15 + np.flatnonzero(liking > liking.mean())
    assert 0 < len(rows) < 5
    steps = sparse_layers(8)
    assert steps == (0, 1, 3)
    row = attentions()[0][rows][:, 3:15].mean(axis=0)
    gone = np.flatnonzero(fates(record)[1] == 0)
    assert sorted(np.argsort(-row)[9:]) == gone.tolist()


def test_dart_compares_normalised_states_and_keys_of_layer_one() -> None:
    model, keys = deep(), []
    with torch.no_grad():
        out = model(prompt(), output_hidden_states=True, use_cache=True)
        states = model.model.norm(out.hidden_states[2])[0].double().numpy()
        keys = out.past_key_values.layers[1].keys[0].transpose(0, 1).flatten(1).double().numpy()
    for variant, start in (("official", 3), ("paper", None)):
        ranking = naive(keys[3:15], keys[15:], states[3:15], states[15:], 7, start)
        with torch.no_grad(), flowcut.record_language(model, SPAN, dart_as(variant, 7)) as rec:
            model(prompt())
        np.testing.assert_array_equal(fates(rec.record)[0], ranking)


@pytest.mark.parametrize("name", DECODER)
def test_the_ranking_says_who_went_when(name: str) -> None:
    record = cut_ids(name)
    ranks, pruned_at = fates(record)
    assert np.flatnonzero(pruned_at < 0).tolist() == record.kept(0).tolist()
    when = np.where(pruned_at < 0, 99, pruned_at)[np.argsort(ranks, kind="stable")]
    assert (np.diff(when) >= 0).all()
    assert np.sort(np.argsort(-ranks, kind="stable")[:5]).tolist() == record.kept(0).tolist()
    assert any("mean over layers" in note for note in record.notes)


@pytest.mark.parametrize("name", DECODER)
def test_positions_are_those_of_the_released_code(name: str) -> None:
    record = cut_ids(name)
    kept = record.rows_after[0]
    own = plan_of(name).keeps_positions
    assert own == (name in ("fastv", "dart", "priortr"))
    np.testing.assert_array_equal(record.positions_after[0], kept if own else np.arange(13))


@pytest.mark.parametrize("name", DECODER)
def test_nothing_of_ours_is_left(name: str) -> None:
    model = deep()
    before, stock = hooks_of(model), model(prompt()).logits
    cut_ids(name, model)
    with pytest.raises(flowcut.FlowCutError), flowcut.record_language(model, (3, 99), cut_of(name)):
        model(prompt())
    assert hooks_of(model) == before
    assert model.config._attn_implementation == "sdpa"
    assert torch.equal(model(prompt()).logits, stock)


@pytest.mark.parametrize("name", DECODER)
def test_beams_equal_beams_without_a_cache(name: str) -> None:
    model, ids = deep(), prompt(batch=2)
    options = {**GREEDY, "num_beams": 3, "return_dict_in_generate": True, "output_scores": True}
    with torch.no_grad(), flowcut.record_language(model, [SPAN, SPAN], cut_of(name), instruction_end=20):
        cached = model.generate(ids, **options)
        whole = model.generate(ids, use_cache=False, **options)
    assert torch.equal(cached.sequences, whole.sequences)


@pytest.mark.parametrize("name", ["pyramiddrop", "fastv"])
def test_answers_that_are_watched_are_the_same_and_know_what_each_layer_reads(name: str) -> None:
    """A run ahead is nobody's step; visual tokens are NaN in the layers that did not read them."""
    model, ids = deep(), prompt()
    with torch.no_grad(), flowcut.record_language(model, SPAN, cut_of(name)) as rec:
        plain = model.generate(ids, **GREEDY)
        with AnswerRecording(model, torch.arange(3, 15), 20, rec) as looks:
            watched = model.generate(ids, **GREEDY)
        _, pruned_at = fates(rec.record)
    assert torch.equal(plain, watched)
    visual = looks.attention.visual  # [steps, layers, heads, V]
    assert visual.shape[:2] == (6, 8)
    for layer in range(8):
        gone = (pruned_at >= 0) & (pruned_at < layer)
        np.testing.assert_array_equal(np.isnan(visual[:, layer]).all(axis=(0, 1)), gone)


def test_a_prompt_without_text_behind_the_picture_is_refused() -> None:
    with (
        flowcut.record_language(deep(), (8, 12), cut_of("fastv")) as rec,
        pytest.raises(flowcut.FlowCutError, match="no text after"),
    ):
        rec.decoder.model(prompt())
    with pytest.raises(flowcut.InvalidCut, match=r"choose flowcut, fastv, dart, pyramiddrop, sparsevlm"):
        flowcut.record_language(deep(), SPAN, flowcut.Cut("stride", tokens=3))
    with pytest.raises(flowcut.InvalidCut, match="single layer"):
        flowcut.record_language(deep(n_layers=1), SPAN, cut_of("fastv"))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> VisionLanguageModel:
    return flowcut.load(tiny.checkpoint(tmp_path_factory.mktemp("model")))


@pytest.mark.parametrize("name", DECODER)
def test_asked_of_a_whole_model(model: VisionLanguageModel, name: str) -> None:
    cut = flowcut.Cut(name, tokens=9)
    run, bare = (flowcut.ask(model, tiny.picture(), QUESTION, cut, max_new_tokens=4, record=r) for r in (True, False))
    assert run.language_record is not None
    assert run.final_patch_ids is not None
    assert run.ranking is not None
    assert [t.id for t in run.tokens] == [t.id for t in bare.tokens]
    assert bare.language_record is None
    np.testing.assert_array_equal(bare.ranking, run.ranking)
    np.testing.assert_array_equal(run.final_patch_ids, run.language_record.kept(0))
    np.testing.assert_array_equal(np.sort(np.argsort(-run.ranking, kind="stable")[:9]), run.final_patch_ids)
    text = run.prompt_tokens - tiny.N_PATCHES
    assert run.layer_tokens == (text + tiny.N_PATCHES, text + 9)
    assert run.visual_tokens == tiny.N_PATCHES
    assert run.kv_bytes[0] > run.kv_bytes[1]


def test_stopped_before_the_decoder_nothing_was_kept(model: VisionLanguageModel) -> None:
    run = flowcut.ask(model, tiny.picture(), QUESTION, flowcut.Cut("fastv", tokens=9), stop=lambda: True)
    assert run.final_patch_ids is None
    assert run.ranking is None


def test_next_can_be_cut_in_its_decoder(tmp_path_factory: pytest.TempPathFactory) -> None:
    model = flowcut.load(tiny.next_checkpoint(tmp_path_factory.mktemp("next")))
    reasons = flowcut.refusals(model)
    assert sorted(reasons) == ["cdpruner", "chosen", "divprune", "downsample", "evs", "holov", "otprune", "vidcom2"]
    whole = flowcut.ask(model, tiny.picture(), QUESTION, max_new_tokens=2)
    for name in DECODER:
        run = flowcut.ask(model, tiny.picture(), QUESTION, flowcut.Cut(name, tokens=20), max_new_tokens=2)
        assert run.layer_tokens[0] == whole.layer_tokens[0]
        assert run.layer_tokens[-1] == whole.layer_tokens[0] - whole.visual_tokens + 20
        assert run.final_patch_ids is not None
        assert len(run.final_patch_ids) <= 20
    official = flowcut.ask(model, tiny.picture(), QUESTION, flowcut.FlowCut(tokens=20), max_new_tokens=2)
    assert official.ranking is not None
    assert official.final_patch_ids is not None
    assert official.record is not None
    lowest = official.ranking[official.final_patch_ids].min()
    others = np.setdiff1d(np.arange(tiny.N_PATCHES), official.final_patch_ids)
    assert lowest > official.ranking[others].max()
