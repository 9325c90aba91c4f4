"""Sampled subsets: the regression against its textbook form, games whose effects are known, estimates that settle."""

from __future__ import annotations

from itertools import islice, pairwise

import numpy as np
import pytest
from scipy.stats import spearmanr

import flowcut
from flowcut.errors import FlowCutError
from flowcut.models.loading import VisionLanguageModel
from flowcut.studies.scorer import AnswerScorer
from flowcut.studies.subset_effects import PENALTIES, full_length, random_rounds, ridge, split_half
from flowcut.studies.subsets import LEAST_SETS, set_sizes
from tests import tiny
from tests.studies.test_scoring import ANSWER, QUESTION


def rounds_of(n_blocks: int, sizes: tuple[int, ...], n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    drawn = list(islice(random_rounds(n_blocks, sizes, np.random.default_rng(seed)), n))
    return np.concatenate(drawn), np.repeat(np.arange(n), [len(one) for one in drawn])


def test_a_round_is_a_partition_or_one_set_of_each_size() -> None:
    for included in islice(random_rounds(14, (4,), np.random.default_rng(0)), 20):
        assert included.shape == (3, 14)
        assert (included.sum(axis=1) == 4).all()
        assert included.sum(axis=0).max() == 1
    mixed, _ = rounds_of(14, (1, 3, 12), 20)
    assert mixed.sum(axis=1).tolist() == [1, 3, 12] * 20
    assert 0.3 < mixed.mean(axis=0).min() < mixed.mean(axis=0).max() < 0.5, "no block is left out"


def test_the_regression_is_the_textbook_one() -> None:
    """Closed form and generalised cross-validation by the hat matrix, at each penalty; the least is taken."""
    included, _ = rounds_of(10, (3,), 12)
    outcome = np.random.default_rng(1).normal(size=(len(included), 2)) + included[:, :1] * 2
    x, y = included - included.mean(axis=0), outcome - outcome.mean(axis=0)
    scale = np.linalg.eigvalsh(x.T @ x).clip(0).mean()
    n, found = len(x), ridge(included, outcome, paired=0)
    for question in range(2):
        errors, effects = [], []
        for penalty in scale * PENALTIES:
            inverse = np.linalg.inv(x.T @ x + penalty * np.eye(10))
            hat = x @ inverse @ x.T + 1 / n
            left = y[:, question] - x @ inverse @ x.T @ y[:, question]
            errors.append((left @ left) / (1 - np.trace(hat) / n) ** 2)
            effects.append(inverse @ x.T @ y[:, question])
        best = int(np.argmin(errors))
        np.testing.assert_allclose(found.effect[question], effects[best], atol=1e-8)
        alone = (y[:, question] @ y[:, question]) / (1 - 1 / n) ** 2
        assert found.explained[question] == pytest.approx(1 - errors[best] / alone)


def test_the_effects_of_an_additive_game_are_found_and_of_noise_are_not() -> None:
    rng = np.random.default_rng(0)
    true = rng.normal(size=30)
    for sizes in ((5,), (2, 5, 20)):
        included, rounds = rounds_of(30, sizes, 60)
        # How many blocks are there may matter as it likes: sets are compared with those of their size.
        game = included @ true + 40 * np.sqrt(included.sum(axis=1))
        outcome = np.stack([game, rng.normal(size=len(game))], axis=1)
        found = ridge(included, outcome)
        np.testing.assert_allclose(found.effect[0] - found.effect[0].mean(), true - true.mean(), atol=0.05)
        halves = split_half(included, outcome, rounds)
        assert halves[0] > 0.99
        assert abs(halves[1]) < 0.5
        assert found.explained[0] > 0.99
        assert found.explained[1] < 0.3


def test_blocks_that_stand_in_for_each_other_share_what_they_add() -> None:
    """The answer needs block 0, and 1 or 2: knocked out alone from the full picture, 1 and 2 would add nothing."""
    included, _ = rounds_of(12, (4,), 400)
    game = 3.0 * included[:, 0] + 2.0 * (included[:, 1] | included[:, 2])
    effect = ridge(included, game[:, None]).effect[0]
    assert effect.sum() == pytest.approx(0, abs=1e-6), "in sets of one size a block comes in place of another"
    effect -= effect[3:].mean()
    assert effect.argmax() == 0
    assert effect[1] == pytest.approx(effect[2], abs=0.1)
    assert effect[1] > 0.8 > 0.2 > np.abs(effect[3:]).max()


def test_what_strong_blocks_do_together_is_no_noise_on_the_rest() -> None:
    """Two of them save the answer, three no more; many small effects beside them are told apart only with products."""
    true = 0.1 * np.random.default_rng(0).normal(size=40)
    included, _ = rounds_of(40, (8,), 120)
    saved = np.minimum(included[:, :4].sum(axis=1), 1)
    outcome = (included @ true + 6.0 * saved)[:, None]
    plain, paired = (ridge(included, outcome, paired=pairs).effect[0] for pairs in (0, 8))
    agreement = [spearmanr(effect[4:], true[4:]).statistic for effect in (plain, paired)]
    assert agreement[1] > agreement[0] + 0.1
    fresh, _ = rounds_of(40, (8,), 4000, seed=1)  # the effects themselves, of so many sets that noise is gone
    settled = ridge(fresh, (fresh @ true + 6.0 * np.minimum(fresh[:, :4].sum(axis=1), 1))[:, None], paired=0).effect[0]
    np.testing.assert_allclose(paired[:4] - paired[4:].mean(), settled[:4] - settled[4:].mean(), rtol=0.12)


def test_two_halves_and_all() -> None:
    included, rounds = rounds_of(20, (5,), 40)
    outcome = included @ np.arange(20.0) + np.random.default_rng(2).normal(scale=40, size=len(included))
    halves = [ridge(included[rounds % 2 == part], outcome[rounds % 2 == part][:, None]).effect[0] for part in (0, 1)]
    assert split_half(included, outcome[:, None], rounds)[0] == pytest.approx(spearmanr(*halves).statistic)
    np.testing.assert_allclose(full_length(np.array([0.0, 0.5, 1.0, -0.4])), [0, 2 / 3, 1, -0.4])
    assert np.isnan(split_half(included[:5], outcome[:5, None], np.array([0, 0, 2, 2, 3]))).all()
    assert np.isnan(split_half(included, np.ones((len(included), 1)), rounds)).all()


def test_the_reliability_that_halves_foretell_is_that_of_repeating_it() -> None:
    """Spearman-Brown against what it claims: the agreement with as many fresh sets."""
    rng = np.random.default_rng(3)
    foretold, repeated = [], []
    for trial in range(40):
        true = rng.normal(size=30)
        fits = []
        for half in (0, 1):
            included, rounds = rounds_of(30, (6,), 30, seed=100 * trial + half)
            outcome = (included @ true + rng.normal(scale=8, size=len(included)))[:, None]
            fits.append(ridge(included, outcome).effect[0])
        foretold.append(full_length(split_half(included, outcome, rounds))[0])
        repeated.append(spearmanr(*fits).statistic)
    assert np.mean(foretold) == pytest.approx(np.mean(repeated), abs=0.06)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> VisionLanguageModel:
    return flowcut.load(tiny.checkpoint(tmp_path_factory.mktemp("model")))


@pytest.mark.parametrize("mixed", [False, True])
def test_a_study_settles_and_is_the_regression_of_what_was_read(model: VisionLanguageModel, mixed: bool) -> None:
    options = {"tokens": 12, "mixed_sizes": mixed, "reliability": None, "most_sets": 300}
    found = list(flowcut.sampled_subsets(model, tiny.picture(), QUESTION, ANSWER, **options))  # type: ignore[arg-type]
    first, last = found[0], found[-1]
    assert (first.sets, first.done, last.sets, last.done) == (0, 0.0, 300, 1.0)
    assert np.isnan(first.effect).all()
    assert all(a.sets < b.sets for a, b in pairwise(found))
    assert last.sizes == ((1, 3, 6, 12) if mixed else (3,))
    assert not last.settled
    scorer = AnswerScorer(model, tiny.picture(), QUESTION, ANSWER)
    included, rounds = rounds_of(16, last.sizes, 100)
    included, rounds = included[:300], rounds[:300]
    sets = [np.flatnonzero(one[last.block_of_patch]) for one in included]
    scores = scorer.score(sets, "kept")
    outcome = scores.log_odds[:, None]
    np.testing.assert_allclose(last.effect, ridge(included, outcome).effect[0], atol=1e-4)
    assert last.half_agreement == pytest.approx(split_half(included, outcome, rounds)[0], abs=1e-2)
    assert last.reliability == pytest.approx(full_length(last.half_agreement))
    assert last.exact_match == pytest.approx(scores.exact_match.mean())
    full = scorer.score([np.arange(64), []], "kept").log_odds
    assert (last.full, last.no_image) == pytest.approx(tuple(full), abs=1e-4)
    assert (last.positions, last.seed, last.block, last.grid_cols) == ("kept", 0, 2, 8)


def test_it_ends_when_two_estimates_in_turn_are_reliable(model: VisionLanguageModel) -> None:
    *_, last = flowcut.sampled_subsets(model, tiny.picture(), QUESTION, ANSWER, 12, reliability=-1.0, most_sets=2000)
    assert last.settled
    assert LEAST_SETS <= last.sets < 2000
    *_, other = flowcut.sampled_subsets(model, tiny.picture(), QUESTION, ANSWER, 12, most_sets=100, seed=1)
    *_, moved = flowcut.sampled_subsets(
        model, tiny.picture(), QUESTION, ANSWER, 12, most_sets=100, seed=1, positions="renumbered"
    )
    assert (other.sets, other.settled, moved.positions) == (100, False, "renumbered")
    assert not np.allclose(other.effect, moved.effect)


def test_sizes_of_sets() -> None:
    assert set_sizes(144, 64, 2, mixed=False) == (16,)
    assert set_sizes(144, 64, 2, mixed=True) == (4, 8, 16, 32, 64)
    assert set_sizes(36, 64, 4, mixed=True) == (1, 2, 4, 8, 16)
    assert set_sizes(16, 1, 4, mixed=True) == (1, 2, 4)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"tokens": 64}, "all 16 blocks of 2 x 2"), ({"tokens": 0}, "tokens is 0"), ({"block": 0}, "block is 0"),
        ({"most_sets": 3}, "at least 4"), ({"seed": -1}, "seed is -1"), ({"positions": "moved"}, "'moved'"),
    ],
)  # fmt: skip
def test_settings_that_cannot_be(model: VisionLanguageModel, settings: dict, said: str) -> None:
    with pytest.raises(FlowCutError, match=said):
        next(flowcut.sampled_subsets(model, tiny.picture(), QUESTION, ANSWER, **{"tokens": 12, **settings}))
