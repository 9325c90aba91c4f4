"""The studies: partial results on the way, the same numbers as asking one by one, one method's failure its own."""

from __future__ import annotations

import threading
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

import flowcut
from flowcut import studies
from flowcut.criteria import METHODS
from flowcut.criteria.positions import Positions
from flowcut.errors import FlowCutError
from flowcut.models.loading import VisionLanguageModel
from flowcut.records.studies import SweepPoint
from flowcut.studies import budgets, removal, steps
from flowcut.studies.scorer import AnswerScorer
from tests import tiny

QUESTION = "What is in the picture?"
PICTURE = tiny.picture()
N = tiny.N_PATCHES


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> VisionLanguageModel:
    return flowcut.load(tiny.checkpoint(tmp_path_factory.mktemp("model")))


@pytest.fixture(scope="module")
def full(model: VisionLanguageModel) -> flowcut.Run:
    return flowcut.ask(model, PICTURE, QUESTION, max_new_tokens=4)


@pytest.fixture(scope="module")
def answer(full: flowcut.Run) -> list[int]:
    return [token.id for token in full.tokens]


def every_cut(model: VisionLanguageModel, tokens: int) -> list[flowcut.CutConfig]:
    refused = flowcut.refusals(model)
    names = [name for name, method in METHODS.items() if name not in refused and not method.takes_patches]
    return [flowcut.Cut(name, tokens=tokens) for name in names]


def test_every_method_beside_the_whole_picture(
    model: VisionLanguageModel, full: flowcut.Run, answer: list[int]
) -> None:
    cuts = [*every_cut(model, 9), flowcut.Cut("stride", tokens=N), flowcut.FlowCut(tokens=N)]
    results = list(studies.compare_methods(model, PICTURE, QUESTION, full, cuts))
    scorer = AnswerScorer(model, PICTURE, QUESTION, answer)
    assert [result.cut for result in results] == cuts
    assert any(result.exact_match for result in results) != all(result.exact_match for result in results), (
        "else little is tested"
    )
    for result in results:
        assert result.error is None, result
        run = flowcut.ask(model, PICTURE, QUESTION, result.cut, max_new_tokens=4)
        assert result.run is not None
        assert [token.id for token in result.run.tokens] == [token.id for token in run.tokens]
        assert result.exact_match == ([token.id for token in run.tokens] == answer)
        assert result.logprobs is not None
        np.testing.assert_allclose(result.logprobs, scorer.score_cut(result.cut).logprobs[0], atol=2e-5)
        np.testing.assert_array_equal(result.run.final_patch_ids, run.final_patch_ids)


def test_rankings_are_those_of_real_runs(model: VisionLanguageModel) -> None:
    cuts = every_cut(model, 9)
    for one, cut in zip(studies.rank_patches(model, PICTURE, QUESTION, cuts), cuts, strict=True):
        run = flowcut.ask(model, PICTURE, QUESTION, cut, max_new_tokens=1, record=False)
        assert (one.cut, one.error) == (cut, None)
        assert (one.ranking is None) == (run.ranking is None) == (not METHODS[cut.method].ranks)
        if one.ranking is not None:
            assert one.ranking.dtype == np.float32
            np.testing.assert_allclose(one.ranking, run.ranking, rtol=1e-6)
    (failed,) = studies.rank_patches(model, PICTURE, QUESTION, [flowcut.Cut("chosen", tokens=1, patches=(99,))])
    assert failed.ranking is None


def test_one_methods_failure_is_its_own(
    model: VisionLanguageModel, full: flowcut.Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(evidence: Any, cut: Any) -> Any:
        raise ZeroDivisionError("of its own making")

    monkeypatch.setitem(METHODS, "stride", flowcut.criteria.Method("Stride", "broken on purpose", rank=broken))
    cuts = [
        flowcut.Cut("stride", tokens=9),
        flowcut.Cut("chosen", tokens=1, patches=(99,)),
        flowcut.Cut("random", tokens=9),
    ]
    stride, chosen, random = studies.compare_methods(model, PICTURE, QUESTION, full, cuts)
    assert (stride.run, stride.logprobs, stride.exact_match) == (None, None, False)
    assert stride.error is not None
    assert "ZeroDivisionError: of its own making" in stride.error
    assert chosen.error is not None
    assert "99" in chosen.error
    assert random.error is None
    points = {point.cut.method: point for point in studies.sweep(model, PICTURE, QUESTION, _ids(full), cuts)}
    assert (points["stride"].error, points["chosen"].error) == (stride.error, chosen.error)
    assert np.isnan(points["stride"].logprob)
    assert points["random"].error is None


def _ids(run: flowcut.Run) -> list[int]:
    return [token.id for token in run.tokens]


def test_a_stopped_answer_is_compared_as_far_as_it_goes(model: VisionLanguageModel) -> None:
    heard: list[str] = []
    full = flowcut.ask(model, PICTURE, QUESTION, max_new_tokens=9, on_text=heard.append, stop=lambda: len(heard) >= 2)
    (whole,) = studies.compare_methods(model, PICTURE, QUESTION, full, [flowcut.Cut("random", tokens=N)])
    assert full.stopped
    assert len(full.tokens) == 2
    assert whole.exact_match
    silent = flowcut.ask(model, PICTURE, QUESTION, stop=lambda: True)
    with pytest.raises(FlowCutError, match="empty"):
        list(studies.compare_methods(model, PICTURE, QUESTION, silent, [flowcut.Cut("random", tokens=9)]))


@pytest.mark.parametrize(("block", "positions"), [(1, "kept"), (3, "kept"), (3, "renumbered")])
def test_knock_out_one_by_one(model: VisionLanguageModel, answer: list[int], block: int, positions: Positions) -> None:
    steps = list(studies.knock_out(model, PICTURE, QUESTION, answer, block, positions=positions))
    scorer, ids = AnswerScorer(model, PICTURE, QUESTION, answer), np.arange(N)
    last = steps[-1]
    assert last.done == 1
    assert steps[0].done == 0
    assert np.isnan(steps[0].without).all()
    for earlier, later in pairwise(steps):
        assert earlier.done < later.done
        there = np.isfinite(earlier.without)
        np.testing.assert_array_equal(earlier.without[there], later.without[there])
    n_blocks = N if block == 1 else 9
    assert last.without.shape == last.insertion.shape == last.logprob_drop.shape == (n_blocks,)
    assert last.full == pytest.approx(scorer.score_cut(None).total[0], abs=1e-5)
    assert last.no_image == pytest.approx(scorer.score([[]], positions).total[0], abs=1e-5)
    assert last.positions == positions
    for one in range(0, n_blocks, 4):
        inside = last.block_of_patch == one
        assert last.without[one] == pytest.approx(scorer.score([ids[~inside]], positions).total[0], abs=1e-5)
        assert last.insertion[one] == pytest.approx(scorer.score([ids[inside]], positions).total[0], abs=1e-5)
    np.testing.assert_allclose(last.logprob_drop, last.full - last.without)


def test_blocks_by_hand() -> None:
    expected = [[0, 0, 1, 1, 2], [0, 0, 1, 1, 2], [3, 3, 4, 4, 5]]
    np.testing.assert_array_equal(removal.block_of_patch(3, 5, 2).reshape(3, 5), expected)
    np.testing.assert_array_equal(removal.block_of_patch(2, 3, 1), np.arange(6))
    np.testing.assert_array_equal(removal.block_of_patch(2, 3, 9), np.zeros(6))


@pytest.mark.parametrize("positions", ["kept", "renumbered"])
def test_removal_curves(model: VisionLanguageModel, answer: list[int], positions: Positions) -> None:
    scorer = AnswerScorer(model, PICTURE, QUESTION, answer)
    ranking = np.random.default_rng(0).normal(size=N)
    order = np.argsort(-ranking)
    rankings = {"one": ranking, "again": 2 * ranking, "flat": np.zeros(N)}
    first, same, flat = studies.deletion_insertion(
        model, PICTURE, QUESTION, answer, rankings, steps=4, positions=positions
    )
    assert first.positions == positions
    np.testing.assert_allclose(first.removed, [0, 0.25, 0.5, 0.75, 1])
    for place, count in enumerate([0, 16, 32, 48, 64]):
        assert first.deletion[place] == pytest.approx(scorer.score([order[count:]], positions).total[0], abs=1e-5)
        assert first.insertion[place] == pytest.approx(scorer.score([order[:count]], positions).total[0], abs=1e-5)
    assert first.deletion[0] == first.insertion[-1]
    assert first.deletion[-1] == first.insertion[0]
    np.testing.assert_array_equal(same.deletion, first.deletion)
    assert (flat.name, flat.deletion[0]) == ("flat", first.deletion[0])


def test_patches_of_equal_rank_are_not_taken_in_reading_order() -> None:
    order = removal.highest_first("flat", np.zeros(1000), 1000)
    assert abs(np.corrcoef(order, np.arange(1000))[0, 1]) < 0.1
    np.testing.assert_array_equal(order, removal.highest_first("flat", np.ones(1000), 1000))
    two = removal.highest_first("two", np.repeat([0.0, -np.inf, 1.0], 3), 9)
    assert [set(two[:3].tolist()), set(two[3:6].tolist())] == [{6, 7, 8}, {0, 1, 2}]


@pytest.mark.parametrize("ranking", [np.zeros(N - 1), np.full(N, np.nan), np.zeros((1, N))])
def test_rankings_that_cannot_be(model: VisionLanguageModel, answer: list[int], ranking: np.ndarray) -> None:
    with pytest.raises(FlowCutError, match="one number for each of the 64 patches"):
        next(studies.deletion_insertion(model, PICTURE, QUESTION, answer, {"strange": ranking}))


@pytest.mark.parametrize("wrong", [0, -1, 1.5, True])
def test_blocks_and_steps_that_cannot_be(model: VisionLanguageModel, answer: list[int], wrong: Any) -> None:
    with pytest.raises(FlowCutError, match="block"):
        next(studies.knock_out(model, PICTURE, QUESTION, answer, wrong))
    with pytest.raises(FlowCutError, match="steps"):
        next(studies.deletion_insertion(model, PICTURE, QUESTION, answer, {}, wrong))


def test_the_sweep_is_the_real_path(model: VisionLanguageModel, answer: list[int]) -> None:
    """One-shot methods are scored on what the whole picture's encoder made: that must be what a real cut gives."""
    cuts = [cut for tokens in (3, 20, N) for cut in every_cut(model, tokens)]
    cuts += [flowcut.Cut("random", tokens=9, seed=seed) for seed in range(5)]
    scorer = AnswerScorer(model, PICTURE, QUESTION, answer)
    points = {point.cut: point for point in studies.sweep(model, PICTURE, QUESTION, answer, cuts)}
    assert set(points) == set(cuts)
    for cut in cuts:
        scores = scorer.score_cut(cut)
        assert points[cut].error is None
        assert points[cut].logprob == pytest.approx(scores.total[0], abs=5e-5)
        assert points[cut].exact_match == scores.exact_match[0]
    assert len({round(points[cut].logprob, 6) for cut in cuts[-5:]}) == 5


def test_one_look_for_all_budgets(model: VisionLanguageModel, answer: list[int]) -> None:
    looks: list[int] = []
    hook = model.model.model.vision_tower.register_forward_hook(lambda *_: looks.append(1))
    cuts = [flowcut.Cut(name, tokens=t) for name in ("cls-attention", "random", "stride") for t in range(1, 9)]
    try:
        assert len(list(studies.sweep(model, PICTURE, QUESTION, answer, cuts))) == 24
    finally:
        hook.remove()
    assert len(looks) == 2, "the whole picture, and one look for CLS attention"


def test_models_that_join_several_layers_are_swept_for_real(tmp_path: Any) -> None:
    """Between the layers that are read the encoder runs on the survivors: sharing would be wrong there."""
    tiny.llava(vision_feature_layer=[-3, -2]).save_pretrained(tmp_path)
    tiny.processor().save_pretrained(tmp_path)
    model, cut = flowcut.load(tmp_path), flowcut.Cut("cls-attention", tokens=9)
    run = flowcut.ask(model, PICTURE, QUESTION, cut, max_new_tokens=3)
    (point,) = studies.sweep(model, PICTURE, QUESTION, _ids(run), [cut])
    assert point.logprob == pytest.approx(sum(token.logprob for token in run.tokens), abs=1e-4)


def budgets_of(keeps: set[int], most: int = 64) -> tuple[list[int], int | None]:
    """Which budgets a search tries where exactly these keep the answer, and the least that it finds."""
    search = budgets._downwards(most)
    tried, budget = [], next(search)
    while True:
        tried.append(budget)
        try:
            budget = search.send(budget in keeps)
        except StopIteration:
            return tried, min((one for one in tried if one in keeps), default=None)


@pytest.mark.parametrize("least", [1, 2, 5, 23, 63, 64])
def test_the_smallest_budget_of_a_monotone_method(least: int) -> None:
    tried, found = budgets_of(set(range(least, 65)))
    assert found == least
    assert len(tried) == len(set(tried)) <= 14


def test_an_answer_that_comes_back_below_is_found() -> None:
    tried, found = budgets_of({*range(40, 65), 7})
    assert len(tried) == len(set(tried))
    assert found in (7, 40)
    assert budgets_of({*range(40, 65), *range(5, 9)})[1] == 5, "it lies on the way down: 40 - 32 = 8"
    assert budgets_of(set(range(10)))[0] == [64], "with all tokens it is not kept: nothing to look for"


def test_the_smallest_budget_of_a_real_cut(model: VisionLanguageModel, answer: list[int]) -> None:
    for name in ("random", "flowcut"):
        states = list(studies.smallest_budget(model, PICTURE, QUESTION, answer, flowcut.Cut(name)))
        last = states[-1]
        assert [state.done for state in states] == [False] * (len(states) - 1) + [True]
        assert [len(state.tried) for state in states] == list(range(1, len(states) + 1))
        swept = [flowcut.Cut(name, tokens=tokens) for tokens, _ in last.tried]
        points = {
            point.cut.tokens: point.exact_match for point in studies.sweep(model, PICTURE, QUESTION, answer, swept)
        }
        assert points == dict(last.tried)
        assert last.tokens == min(tokens for tokens, same in last.tried if same)
        assert last.monotone == all(same for tokens, same in last.tried if tokens > last.tokens)


def test_the_lock_is_free_between_two_yields(model: VisionLanguageModel, full: flowcut.Run, answer: list[int]) -> None:
    rest = (model, PICTURE, QUESTION)
    for study in (
        studies.compare_methods(*rest, full, [flowcut.FlowCut(tokens=9)] * 2),
        studies.knock_out(*rest, answer),
        studies.deletion_insertion(*rest, answer, {"flat": np.zeros(N)}, 2),
        studies.sweep(*rest, answer, [flowcut.FlowCut(tokens=9), flowcut.Cut("random", tokens=9)]),
        studies.smallest_budget(*rest, answer, flowcut.FlowCut()),
    ):
        next(study)
        taken: list[bool] = []
        other = threading.Thread(target=lambda taken=taken: taken.append(_take(model.lock)))
        other.start()
        other.join()
        assert taken == [True], study


def _take(lock: Any) -> bool:
    taken = bool(lock.acquire(timeout=1))
    if taken:
        lock.release()
    return taken


def test_shares_cover_everything_once() -> None:
    shares = [(share.start, len(done)) for share, done in steps.in_shares(list(range(100)), lambda items: items)]
    assert sum(length for _, length in shares) == 100
    assert [start for start, _ in shares] == sorted({start for start, _ in shares})
    assert len(shares) < 10, "quick work is done in larger shares"


def test_results_need_no_model_to_be_read() -> None:
    point = SweepPoint(flowcut.Cut("random", tokens=9), -1.0, True)
    assert flowcut.SweepPoint is SweepPoint
    assert point.error is None
