"""The causal check's measures against literal resampling, scipy, and sums done by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import spearmanr

from flowcut.records.studies import KnockOut
from flowcut_lens.analysis.causal import (
    DRAWS,
    Agreement,
    band,
    block_mean,
    curve_area,
    flip_point,
    in_drawn_order,
    needed,
    object_agreement,
    rank_agreement,
    validity,
)


def test_an_interval_is_of_literal_draws() -> None:
    """Each draw repeats its patches and is ranked anew; ties share their mean rank."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=30), np.round(rng.normal(size=30), 1)
    x[5:15] = x[0]
    often = np.random.default_rng(4).multinomial(30, np.full(30, 1 / 30), size=50)
    drawn = [np.repeat(np.arange(30), counts) for counts in often]
    expected = np.quantile([spearmanr(x[places], y[places]).statistic for places in drawn], [0.025, 0.975])
    found = rank_agreement({"x": x}, y, resamples=50, seed=4)["x"]
    assert (found.low, found.high) == pytest.approx(tuple(expected), abs=1e-12)


def test_the_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    """Normal pairs of correlation r have Spearman 6/pi asin(r/2)."""
    rng = np.random.default_rng(1)
    r, hits = 0.6, 0
    true = 6 / np.pi * np.arcsin(r / 2)
    for trial in range(60):
        x = rng.normal(size=150)
        logprob_drop = r * x + np.sqrt(1 - r * r) * rng.normal(size=150)
        found = rank_agreement({"x": x}, logprob_drop, resamples=300, seed=trial)["x"]
        assert found.low < found.value < found.high
        hits += found.low <= true <= found.high
    assert 51 <= hits <= 60


def test_what_is_equal_stands_in_a_drawn_order() -> None:
    shown = np.array([0, 0.5, 0, 0, 0.2])
    draws = np.array([[0.3, 0, 0.1, 0.2, 0], [0.1, 0, 0.2, 0.3, 0]])
    np.testing.assert_array_equal(in_drawn_order(shown, draws), [[2, 4, 0, 1, 3], [0, 4, 1, 2, 3]])


def test_the_object_is_a_reference_whose_ties_are_drawn() -> None:
    """As in the benchmark's tables: Spearman of blocks by their share of the object, mean over orders of the rest."""
    coverage, drop = np.zeros(16), np.random.default_rng(3).normal(size=4)
    coverage[:2] = 1
    blocks = np.repeat(np.arange(4), 4)
    draws = np.random.default_rng(0).random((DRAWS, 4))
    expected = [spearmanr(np.lexsort((draw, [0.5, 0, 0, 0])).argsort(), drop).statistic for draw in draws]
    found = object_agreement(coverage, drop, blocks, resamples=50)
    assert found.value == pytest.approx(np.mean(expected))
    assert found.count == 4
    assert found.low <= found.value <= found.high
    alone = object_agreement(coverage, np.arange(16.0)[::-1], resamples=10)
    assert alone.count == 16


def test_unmeasured_patches_are_left_out_and_the_seed_decides() -> None:
    rng = np.random.default_rng(2)
    logprob_drop, ranking = rng.normal(size=40), rng.normal(size=40)
    view = logprob_drop.copy()
    view[25:] = np.nan
    found = rank_agreement({"a": ranking, "itself": logprob_drop, "flat": np.ones(40)}, view, seed=3)
    assert found["a"].value == pytest.approx(spearmanr(ranking[:25], logprob_drop[:25]).statistic)
    assert found["a"].count == 25
    assert (found["itself"].value, found["itself"].low) == pytest.approx((1, 1))
    assert np.isnan([found["flat"].value, found["flat"].low]).all()
    assert found["a"] == rank_agreement({"a": ranking}, view, seed=3)["a"]
    assert found["a"] != rank_agreement({"a": ranking}, view, seed=4)["a"]
    assert np.isnan(rank_agreement({"a": ranking}, np.full(40, np.nan))["a"].value)


def test_blocks_take_the_mean_rank_of_their_patches() -> None:
    ranking = np.array([0.1, 50.0, 0.2, 0.2])
    np.testing.assert_array_equal(block_mean(ranking, np.array([0, 0, 1, 1])), [2.5, 2.5])
    np.testing.assert_array_equal(block_mean(ranking, np.arange(4)), [1, 4, 2.5, 2.5])
    blocks = np.array([0, 0, 1, 3, 1])
    np.testing.assert_array_equal(block_mean(np.array([1.0, 3, 5, 7, 6]), blocks), [1.5, 3.5, np.nan, 5])
    logprob_drop = np.array([0.1, 0.4, np.nan, 0.2])
    found = rank_agreement({"r": np.array([1.0, 3, 5, 7, 6])}, logprob_drop, blocks)["r"]
    assert found.value == pytest.approx(spearmanr([2, 5.5, 7], [0.1, 0.4, 0.2]).statistic)
    with pytest.raises(ValueError, match="'short' is of 3 patches or blocks, the log-prob drop of 4"):
        rank_agreement({"short": np.ones(3)}, logprob_drop)


def test_what_matters_to_a_knock_out_is_the_absolute_change() -> None:
    blocks = np.arange(3)
    knocked = KnockOut(1, blocks, np.array([-2.0, -1.0, -0.5]), np.zeros(3), -1.0, -9.0, 1.0, 3)
    np.testing.assert_array_equal(needed(knocked), [1.0, 0.0, 0.5])


def test_a_check_is_valid_as_far_as_it_goes_with_what_is_kept() -> None:
    agreements = {name: Agreement(value, 0, 0, 9) for name, value in zip("abcd", (0.1, 0.3, 0.2, np.nan), strict=True)}
    kept = {"a": -3.0, "b": -1.0, "c": -2.0, "d": 0.0, "e": 1.0}
    assert (validity(agreements, kept).value, validity(agreements, kept).count) == (1.0, 3)
    assert validity(agreements, {**kept, "b": -9.0}).value == -0.5
    assert np.isnan(validity(agreements, {"a": 1.0}).value)


def test_areas_by_hand() -> None:
    share = np.array([0, 0.5, 1])
    assert curve_area(share, np.array([-1.0, -2, -5]), full=-1, no_image=-5) == pytest.approx((1 + 0.75) / 4 + 0.75 / 4)
    assert curve_area(share, np.array([-1.0, -1, -1]), full=-1, no_image=-5) == 1
    assert curve_area(share[:2], np.array([-5.0, -5]), full=-1, no_image=-5) == 0
    assert np.isnan(curve_area(share, np.array([-1.0, -1, -1]), full=-1, no_image=-1))
    assert np.isnan(curve_area(share, np.array([-1.0, np.nan, -1]), full=-1, no_image=-5))


def test_the_band_is_of_seeds() -> None:
    found = band([np.array([1.0, 2]), np.array([3.0, 0])])
    np.testing.assert_array_equal([found.low, found.mean, found.high], [[1, 0], [2, 1], [3, 2]])
    assert found.seeds == 2


@pytest.mark.parametrize(
    ("exact_match", "expected"),
    [
        ([1, 1, 1, 1], (1, None, ())),
        ([1, 1, 0, 0], (32, 8, ())),
        ([1, 0, 1, 0], (64, 32, (8,))),
        ([0, 1, 1, 0], (None, 64, (32, 8))),
    ],
)
def test_flip_points_show_answers_that_come_back(exact_match: list[int], expected: tuple[object, ...]) -> None:
    found = flip_point(np.array([64, 32, 8, 1]), np.array(exact_match))
    assert (found.kept_down_to, found.flips_at, found.returns_at) == expected
    shuffled = flip_point(
        np.array([8, 64, 1, 32]), np.array([exact_match[2], exact_match[0], exact_match[3], exact_match[1]])
    )
    assert shuffled == found
