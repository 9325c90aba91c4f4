"""Positions kept or renumbered: against the stock model that is told to look past what was taken away."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import flowcut
from flowcut import studies
from flowcut.criteria import METHODS
from flowcut.criteria.positions import POSITIONS
from flowcut.models.loading import VisionLanguageModel
from flowcut.records.run import Run
from flowcut.records.studies import log_odds
from flowcut.studies.scorer import AnswerScorer, score_cut_together
from tests import invariants, tiny, tiny_qwen
from tests.studies.test_scoring import ANSWER, QUESTION, some_sets

N = tiny.N_PATCHES
IMAGE = tiny.SPECIAL.index("<image>")
ONE_SHOT = ("stride", "random", "cls-attention", "divprune", "visionzip")
DECODER = [name for name, method in METHODS.items() if method.stage == "decoder"]
generate = partial(invariants.generate, placeholders=(IMAGE,), tokens=6)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> VisionLanguageModel:
    return flowcut.load(tiny.checkpoint(tmp_path_factory.mktemp("model")))


@pytest.fixture(scope="module")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> VisionLanguageModel:
    return flowcut.load(tiny.next_checkpoint(tmp_path_factory.mktemp("next")))


def asked(model: VisionLanguageModel, *texts: str, seed: int = 0) -> Any:
    pictures = [tiny.picture(seed + one) for one in range(len(texts))]
    prompts = [model.family.prompt(model.processor, text, None) for text in texts]
    return model.processor(images=pictures, text=prompts, return_tensors="pt", padding=True)


def looking_past(model: VisionLanguageModel, answer: list[int], kept: np.ndarray) -> np.ndarray:
    """float64 [A], stock code: the full prompt, with the patches that are not kept masked out of all attention."""
    hf_model: Any = model.model
    scorer = AnswerScorer(model, tiny.picture(), QUESTION, answer)
    whole = torch.cat([scorer.start.embeds, scorer._tail()])[None]
    mask = torch.ones(1, whole.shape[1], dtype=torch.long)
    gone = ~torch.isin(scorer.start.patch_of_row, torch.from_numpy(kept)) & (scorer.start.patch_of_row >= 0)
    mask[0, : len(gone)][gone] = 0
    positions = torch.arange(whole.shape[1])[None]
    with torch.no_grad():
        logits = hf_model(inputs_embeds=whole, attention_mask=mask, position_ids=positions).logits[0].double()
    logprobs = logits[-len(answer) :].log_softmax(dim=-1)
    return np.asarray(logprobs[torch.arange(len(answer)), torch.tensor(answer)].numpy())


def test_kept_positions_are_the_full_prompt_looked_past(model: VisionLanguageModel) -> None:
    sets = some_sets(N)
    scorer = AnswerScorer(model, tiny.picture(), QUESTION, ANSWER)
    kept, renumbered = scorer.score(sets, "kept"), scorer.score(sets)
    expected = np.stack([looking_past(model, ANSWER, one) for one in sets])
    np.testing.assert_allclose(kept.logprobs, expected, rtol=0, atol=1e-5)
    np.testing.assert_allclose(kept.logprobs[-1], renumbered.logprobs[-1], atol=1e-5)
    assert np.abs(kept.total - renumbered.total)[:-1].min() > 1e-4, "the gaps must matter, or nothing was tested"
    assert (kept.positions, renumbered.positions) == ("kept", "renumbered")


@pytest.mark.parametrize("name", [*ONE_SHOT, "flowcut"])
def test_a_cut_with_kept_positions_is_the_full_prompt_looked_past(model: VisionLanguageModel, name: str) -> None:
    variant = "paper" if name == "visionzip" else "official"  # as released, its tokens have no places in the prompt
    cut = flowcut.Cut(name, tokens=9, positions="kept", variant=variant)
    run = flowcut.ask(model, tiny.picture(), QUESTION, cut, max_new_tokens=4)
    ids = [token.id for token in run.tokens]
    scores = AnswerScorer(model, tiny.picture(), QUESTION, ids).score_cut(cut)
    np.testing.assert_allclose(scores.logprobs[0], [token.logprob for token in run.tokens], atol=1e-5)
    assert (run.positions, scores.positions) == ("kept", "kept")
    if name in ("stride", "random", "cls-attention", "divprune"):  # these keep patches as the full encoder made them
        assert run.final_patch_ids is not None
        np.testing.assert_allclose(scores.logprobs[0], looking_past(model, ids, run.final_patch_ids), atol=1e-5)


@pytest.mark.parametrize("positions", ["kept", "renumbered"])
@pytest.mark.parametrize("name", [*ONE_SHOT, "flowcut", *DECODER])
def test_keeping_all_is_the_stock_answer_to_the_bit(model: VisionLanguageModel, name: str, positions: str) -> None:
    cut = flowcut.Cut(name, tokens=N, positions=positions)
    invariants.check_keeping_all(model.model, asked(model, "What?", "A longer one, what?"), cut, generate)


def all_at_once(prepared: Any, sequences: torch.Tensor) -> Any:
    """Prompt and answer as the input of one pass; answers continue the positions of the prompt."""
    whole = invariants.all_at_once(prepared, sequences)
    if "position_ids" in prepared:
        new = sequences.shape[1] - prepared["input_ids"].shape[1]
        more = prepared["position_ids"][:, -1:] + torch.arange(1, new + 1)
        whole["position_ids"] = torch.cat([prepared["position_ids"], more], dim=1)
    return whole


@pytest.mark.parametrize("positions", ["kept", "renumbered"])
@pytest.mark.parametrize("name", ["stride", "flowcut", *DECODER])
def test_decoding_after_the_cut_equals_a_full_prefill(model: VisionLanguageModel, name: str, positions: str) -> None:
    cut = flowcut.Cut(name, tokens=9, positions=positions)
    invariants.check_decoding(model.model, asked(model, "What?"), cut, generate, all_at_once)


@pytest.mark.parametrize("positions", ["kept", "renumbered"])
def test_prompts_padded_to_one_length_read_as_each_does_alone(model: VisionLanguageModel, positions: str) -> None:
    cut = flowcut.Cut("stride", tokens=9, positions=positions)
    alone = [asked(model, "What?"), asked(model, "A longer one, what?", seed=1)]
    invariants.check_padded_batch(model.model, asked(model, "What?", "A longer one, what?"), alone, cut)


def test_tiles_are_cut_twice_with_kept_positions(tiles: VisionLanguageModel) -> None:
    """In the tower and after a decoder layer: what is left has the positions of the full prompt in the end."""
    cut = flowcut.Cut("flowcut", tokens=40, positions="kept")
    inputs = tiles.processor(images=[tiny.picture(0, (90, 50))], text=["<image>\nWhat?"], return_tensors="pt")
    with flowcut.prune(tiles.model, cut) as session:
        prepared = session.prepare(inputs)
        generate(tiles.model, prepared)
    record = session.language_record
    assert record is not None
    first = int((inputs["input_ids"][0] == tiles.family.placeholder_id(tiles.model)).nonzero()[0])
    full = inputs["input_ids"].shape[1]
    np.testing.assert_array_equal(record.positions_before[0], prepared["position_ids"][0].numpy())
    np.testing.assert_array_equal(record.positions_after[0], record.positions_before[0][record.rows_after[0]])
    assert record.positions_after[0][:first].tolist() == list(range(first))
    assert record.positions_after[0][-1] == full - 1
    invariants.check_decoding(tiles.model, inputs, cut, generate, all_at_once)


@pytest.mark.parametrize("name", DECODER)
def test_inside_the_decoder_the_setting_outweighs_the_release(model: VisionLanguageModel, name: str) -> None:
    scorer = AnswerScorer(model, tiny.picture(), QUESTION, ANSWER)
    own, kept, renumbered = (
        scorer.score_cut(flowcut.Cut(name, tokens=9, positions=positions)) for positions in (None, "kept", "renumbered")
    )
    released = {"kept": kept, "renumbered": renumbered}[METHODS[name].positions]
    np.testing.assert_array_equal(own.logprobs, released.logprobs)
    assert own.positions == METHODS[name].positions
    assert np.abs(kept.total - renumbered.total) > 1e-5


def test_studies_take_positions(model: VisionLanguageModel) -> None:
    picture = tiny.picture()
    full = flowcut.ask(model, picture, QUESTION, max_new_tokens=3)
    ids, cuts = full.token_ids, [flowcut.Cut("stride", tokens=9), flowcut.Cut("fastv", tokens=9)]
    scorer = AnswerScorer(model, picture, QUESTION, ids)
    for positions in POSITIONS:
        placed = [flowcut.Cut(cut.method, tokens=9, positions=positions) for cut in cuts]
        expected = {cut: scorer.score_cut(cut).total[0] for cut in placed}
        for result in studies.compare_methods(model, picture, QUESTION, full, cuts, positions=positions):
            assert result.run is not None
            assert (result.cut in placed, result.run.positions) == (True, positions)
            assert result.logprobs is not None
            assert result.logprobs.sum() == pytest.approx(expected[result.cut], abs=1e-4)
        points = list(studies.sweep(model, picture, QUESTION, ids, cuts, positions=positions))
        assert {point.cut: pytest.approx(point.logprob, abs=1e-4) for point in points} == expected
        *_, found = studies.smallest_budget(model, picture, QUESTION, ids, cuts[0], positions=positions)
        assert found.cut == placed[0]
    mixed = [*cuts, *(flowcut.Cut("stride", tokens=9, positions=one) for one in ("kept", "renumbered"))]
    points = list(studies.sweep(model, picture, QUESTION, ids, mixed))
    strides = {point.cut.positions: point.logprob for point in points if point.cut.method == "stride"}
    assert strides[None] == strides["renumbered"] != strides["kept"]


def test_several_questions_share_a_cut_with_kept_positions(model: VisionLanguageModel) -> None:
    first = AnswerScorer(model, tiny.picture(), QUESTION, ANSWER)
    other = first.also("Is it a cat, or rather not?", [90, 91])
    cut = flowcut.Cut("flowcut", tokens=9, positions="kept")
    for shared, own in zip(score_cut_together([first, other], cut), (first, other), strict=True):
        np.testing.assert_allclose(shared.logprobs, own.score_cut(cut).logprobs, atol=1e-6)


def test_what_cannot_be_is_refused_in_one_sentence(model: VisionLanguageModel, tmp_path: Path) -> None:
    scorer = AnswerScorer(model, tiny.picture(), QUESTION, ANSWER)
    strange: Any = "moved"
    with pytest.raises(flowcut.InvalidCut, match="'moved': choose kept"):
        flowcut.Cut("stride", positions=strange)
    with pytest.raises(flowcut.FlowCutError, match="'moved': choose kept"):
        scorer.score([np.arange(3)], strange)
    with pytest.raises(flowcut.InvalidCut, match="grid of its own"):
        scorer.score_cut(flowcut.Cut("downsample", tokens=9, positions="kept"))
    qwen = flowcut.load(tiny_qwen.checkpoint(tiny_qwen.KINDS[0], tmp_path))
    with pytest.raises(flowcut.InvalidCut, match="place in the picture"):
        flowcut.ask(qwen, tiny.picture(), QUESTION, flowcut.Cut("stride", tokens=3, positions="renumbered"))
    kept = flowcut.Cut("stride", tokens=3, positions="kept")
    runs = [flowcut.ask(qwen, tiny.picture(), QUESTION, cut, max_new_tokens=3) for cut in (None, kept)]
    assert [run.positions for run in runs] == [None, "kept"]


def test_flash_attention_would_misread_gaps(model: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    scorer = AnswerScorer(model, tiny.picture(), QUESTION, ANSWER)
    assert scorer.n_patches == N
    monkeypatch.setattr(model.model.config.text_config, "_attn_implementation_internal", "flash_attention_2")
    with pytest.raises(flowcut.InvalidCut, match="borders between prompts"):
        scorer.score([np.arange(3)], "kept")
    with pytest.raises(flowcut.InvalidCut, match="borders between prompts"):
        flowcut.ask(model, tiny.picture(), QUESTION, flowcut.Cut("stride", tokens=6, positions="kept"))


def test_runs_say_which_positions_ran(model: VisionLanguageModel) -> None:
    """Those kept before say what then ran, and keep their ids."""
    for name, expected in (("stride", "renumbered"), ("fastv", "kept")):
        run = flowcut.ask(model, tiny.picture(), QUESTION, flowcut.Cut(name, tokens=9), max_new_tokens=2)
        older = {key: value for key, value in run.facts().items() if key != "positions"}
        assert "positions" not in older["cut"]
        again = Run.from_facts(older, None)
        assert (run.positions, again.positions, again.cut) == (expected, expected, run.cut)
        assert Run.from_facts(run.facts(), None).positions == expected
    kept = flowcut.Cut("stride", tokens=9, positions="kept")
    assert flowcut.CutConfig(**kept.as_dict()) == kept
    assert kept.title == "Stride 9 (positions kept)"
    qwen = {**run.facts(), "family": "Qwen2-VL", "cut": flowcut.Cut("stride", tokens=9).as_dict()}
    del qwen["positions"]
    assert Run.from_facts(qwen, None).positions == "kept"


def test_log_odds_of_the_certain_and_the_impossible() -> None:
    np.testing.assert_allclose(log_odds(np.log([0.5, 0.9, 0.1])), [0, np.log(9), -np.log(9)])
    np.testing.assert_allclose(log_odds(np.array([-1e-12, -900.0])), [np.log(1e12), -900.0])
    assert 36 < log_odds(0.0) < 37
