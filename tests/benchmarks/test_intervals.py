"""The statistics of the benchmarks: by hand, against scipy, and by what they must do."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from benchmarks.intervals import RESAMPLES, Measured, add_holm, holm, summary, two_samples


def test_holm_by_hand() -> None:
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm([0.5, 0.9]), [1.0, 1.0])


def measured(values: np.ndarray, per_scene: int = 4) -> Measured:
    return Measured(["one", "two"], values, np.arange(values.shape[1]) // per_scene)


def test_interval_and_test_of_a_difference_that_is_there() -> None:
    noise = np.random.default_rng(0).normal(size=400)
    both = measured(np.stack([noise, noise + 0.05]))
    row = summary(both.minus("one"))["two"]
    assert (row["mean"], row["low"], row["high"]) == pytest.approx((0.05, 0.05, 0.05))
    assert row["p"] < 0.001
    wide = summary(both)["two"]
    assert wide["low"] < wide["mean"] < wide["high"], "not paired, the same difference is lost in the noise"
    assert wide["n"] == 400


def test_questions_of_one_scene_are_no_independent_evidence() -> None:
    """Ten scenes of a hundred equal questions say no more than ten questions."""
    ten = np.random.default_rng(1).normal(size=10)
    alone = summary(Measured(["one"], ten[None], np.arange(10)))["one"]
    repeated = summary(Measured(["one"], np.repeat(ten, 100)[None], np.repeat(np.arange(10), 100)))["one"]
    for part in ("mean", "low", "high", "p"):
        assert repeated[part] == pytest.approx(alone[part])


def test_no_difference_is_found_as_often_as_chance_has_it() -> None:
    values = np.random.default_rng(2).normal(size=(200, 60))
    rows = summary(Measured([str(i) for i in range(200)], values, np.arange(60)))
    assert 0.01 < np.mean([row["p"] < 0.05 for row in rows.values()]) < 0.1
    assert 0.88 < np.mean([row["low"] < 0 < row["high"] for row in rows.values()]) < 0.99


def test_what_could_not_be_measured_is_left_out() -> None:
    values = np.array([[1.0, np.nan, 3.0, 5.0, np.nan, np.nan, np.nan, np.nan]] * 2)
    row = summary(measured(values))["one"]
    assert (row["mean"], row["n"]) == (3.0, 3)


def clustered(stream: np.random.Generator, samples: int, scenes: int, mean: float = 0.0) -> Measured:
    """Scenes of one to six questions that share most of what they vary by."""
    scene = np.repeat(np.arange(scenes), np.arange(scenes) % 6 + 1)
    shared = stream.normal(mean, 1, (samples, scenes))[:, scene]
    return Measured([str(i) for i in range(samples)], shared + 0.3 * stream.normal(size=(samples, len(scene))), scene)


def test_intervals_cover_what_they_should_where_questions_of_a_scene_are_alike() -> None:
    measured = clustered(np.random.default_rng(3), samples=600, scenes=300)
    by_scene = summary(measured).values()
    assert 0.93 < np.mean([row["low"] < 0 < row["high"] for row in by_scene]) < 0.97
    assert 0.02 < np.mean([row["p"] < 0.05 for row in by_scene]) < 0.08
    by_question = summary(Measured(measured.names, measured.values, np.arange(measured.values.shape[1]))).values()
    assert np.mean([row["low"] < 0 < row["high"] for row in by_question]) < 0.8, "which is why scenes are resampled"


def test_one_question_a_scene_is_the_ordinary_bootstrap() -> None:
    values = np.random.default_rng(4).exponential(size=120)
    ours = summary(Measured(["one"], values[None], np.arange(120)))["one"]
    theirs = stats.bootstrap((values,), np.mean, method="percentile", n_resamples=RESAMPLES, rng=1).confidence_interval
    assert (ours["low"], ours["high"]) == pytest.approx((theirs.low, theirs.high), abs=0.01)
    assert ours["mean"] == pytest.approx(values.mean())


def test_signs_flip_as_in_scipy() -> None:
    values = np.random.default_rng(1).normal(0.25, 1, 60)
    ours = summary(Measured(["one"], values[None], np.arange(60)))["one"]["p"]
    theirs = stats.permutation_test((values,), np.mean, permutation_type="samples", n_resamples=RESAMPLES, rng=1)
    assert ours == pytest.approx(theirs.pvalue, abs=0.01)


def test_a_ratio_of_sums_is_resampled_as_one() -> None:
    stream = np.random.default_rng(6)
    stated = stream.integers(1, 20, 90).astype(float)
    right = stream.binomial(stated.astype(int), 0.8).astype(float)
    ours = summary(Measured(["one"], right[None], np.arange(90), stated[None]))["one"]
    assert ours["mean"] == pytest.approx(right.sum() / stated.sum())
    theirs = stats.bootstrap(
        (right, stated),
        lambda top, below, axis: top.sum(axis=axis) / below.sum(axis=axis),
        paired=True,
        method="percentile",
        n_resamples=RESAMPLES,
        rng=1,
    ).confidence_interval
    assert (ours["low"], ours["high"]) == pytest.approx((theirs.low, theirs.high), abs=0.003)


def test_two_samples_of_one_world_differ_as_often_as_chance_has_it() -> None:
    stream = np.random.default_rng(7)
    rows = two_samples(clustered(stream, 400, 150), clustered(stream, 400, 90)).values()
    assert 0.92 < np.mean([row["low"] < 0 < row["high"] for row in rows]) < 0.98
    assert 0.02 < np.mean([row["p"] < 0.05 for row in rows]) < 0.09


def test_two_samples_find_a_difference_and_its_sign() -> None:
    stream = np.random.default_rng(8)
    (row,) = two_samples(clustered(stream, 1, 200), clustered(stream, 1, 100, mean=1.0)).values()
    assert 0.4 < row["low"] < 1 < row["high"] < 1.6
    assert row["p"] < 0.001
    again = clustered(np.random.default_rng(9), 1, 100)
    assert two_samples(again, again)["0"]["mean"] == 0


def test_tables_of_one_family_are_corrected_together() -> None:
    tables = [{"a": {"p": 0.01}, "b": {"p": 0.04}}, {"a": {"p": 0.03}, "b": {"p": 0.005}}]
    add_holm(tables)
    assert [row["holm"] for rows in tables for row in rows.values()] == pytest.approx([0.03, 0.06, 0.06, 0.02])
