"""Agreement of kept sets, rankings and layers, against slow references and small cases done by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest
from scipy.stats import kendalltau, spearmanr

from flowcut.cut import FlowCut
from flowcut.records.vision import FlowRecord
from flowcut_lens.analysis.agreement import (
    contradiction,
    highest,
    iou,
    kendall,
    kept_mask,
    layer_rankings,
    layer_score,
    spearman,
)
from tests.analysis import synthetic

ENCODER = synthetic.Encoder(grid=8, n_layers=6, n_heads=3)


@pytest.fixture(scope="module")
def full() -> FlowRecord:
    """An unpruned record in which similarity is no constant."""
    record = synthetic.flow_record(ENCODER, None, synthetic.square_geometry(80, 80, 8))
    rng = np.random.default_rng(5)
    layers = tuple(
        replace(layer, similarity=rng.dirichlet(np.ones(65), 1).astype(np.float32)) for layer in record.layers
    )
    return replace(record, layers=layers)


def test_iou_counts_shared_patches() -> None:
    kept = kept_mask([np.array([0, 1, 2]), np.array([2, 3]), np.array([], int), np.array([], int)], 5)
    table = iou(kept)
    np.testing.assert_allclose(table[:2, :2], [[1, 0.25], [0.25, 1]])
    assert table[0, 2] == 0
    assert np.isnan(table[2, 3])


def rankings_with_ties_and_gaps() -> np.ndarray:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(7, 130))
    rows[1] = np.round(rows[1])  # ties
    rows[2] = np.where(np.arange(130) < 20, rows[2], rows[2].min() - 1)  # chosen first, the rest tie at the lowest
    rows[3] = -rows[0]
    rows[4, ::3] = np.nan  # pruned before
    rows[5, :100] = np.nan
    rows[6] = 2.0  # ranks nothing
    return rows


@pytest.mark.filterwarnings("ignore:An input array is constant")
@pytest.mark.parametrize(("ours", "reference"), [(spearman, spearmanr), (kendall, kendalltau)])
def test_rank_correlations_over_what_both_rank(ours: Callable[..., Any], reference: Callable[..., Any]) -> None:
    rows = rankings_with_ties_and_gaps()
    table = ours(rows)
    for i in range(6):
        for j in range(6):
            both = ~np.isnan(rows[i]) & ~np.isnan(rows[j])
            assert table[i, j] == pytest.approx(
                reference(rows[i][both], rows[j][both]).statistic, abs=1e-9, nan_ok=True
            )
    assert table[0, 3] == pytest.approx(-1)
    assert np.isnan(table[6]).all()
    assert np.isnan(ours(np.array([[1.0, np.nan], [np.nan, 2.0]]))[0, 1])


def test_a_layers_score_is_flowcuts_formula(full: FlowRecord) -> None:
    layer = full.layers[3]
    a = layer.cls_row[0].astype(float).mean(0)[1:]
    s = layer.similarity[0, 1:].astype(float)
    expected = (a / a.sum() + s / s.sum()) * layer.value_norm[0, 1:]
    np.testing.assert_allclose(layer_score(layer), expected, rtol=1e-6)
    np.testing.assert_allclose(layer_rankings(full)[3], expected, rtol=1e-6)
    np.testing.assert_allclose(layer_rankings(full, "cls")[3], a / a.sum(), rtol=1e-6)
    np.testing.assert_allclose(layer_rankings(full, "similarity")[3], s / s.sum(), rtol=1e-6)
    np.testing.assert_allclose(layer_rankings(full, "value_norm")[3], layer.value_norm[0, 1:], rtol=1e-6)


def test_a_pruned_runs_own_scores_are_taken_and_pruned_patches_left_out() -> None:
    record = synthetic.flow_record(ENCODER, FlowCut(20))
    rankings = layer_rankings(record)
    for layer, row in zip(record.layers, rankings, strict=True):
        present = layer.patch_ids[0]
        assert np.isnan(np.delete(row, present)).all()
        if layer.score is not None:
            np.testing.assert_array_equal(row[present], layer.score[0])
    assert np.isnan(rankings[-1]).sum() == 64 - 20


def test_contradiction_is_counted_layer_by_layer(full: FlowRecord) -> None:
    found = contradiction(full, 10)
    assert list(found.layers) == [0, 1, 2, 3]  # the feature layer is 4
    running: list[float] = []
    votes = np.zeros(64)
    for layer in full.layers[:4]:
        score = list(layer_score(layer))
        running = [0.5 * c + 0.5 * s for c, s in zip(running, score, strict=True)] if running else score
        for patch in sorted(range(64), key=lambda i: -score[i])[:10]:
            votes[patch] += 0.25
    kept = set(sorted(range(64), key=lambda i: -running[i])[:10])
    np.testing.assert_allclose(found.votes, votes)
    np.testing.assert_allclose(found.contradiction, [min(v, 1 - v) for v in votes])
    assert set(np.flatnonzero(found.running_keeps)) == kept
    np.testing.assert_allclose(found.overruled, [1 - v if i in kept else v for i, v in enumerate(votes)])
    assert found.contradiction.max() > 0


def test_merged_patches_are_judged_together(full: FlowRecord) -> None:
    found = contradiction(replace(full, patches_per_token=4), 3)
    squares = found.keeps.reshape(4, 4, 2, 4, 2)
    assert (squares.any(axis=(2, 4)) == squares.all(axis=(2, 4))).all()
    assert (found.keeps.sum(axis=1) == 12).all()
    scores = layer_rankings(full)[0].reshape(4, 2, 4, 2).mean(axis=(1, 3)).ravel()
    chosen = squares[0].all(axis=(1, 3)).ravel()
    assert set(np.flatnonzero(chosen)) == set(np.argsort(-scores)[:3])


def test_of_equal_scores_the_first_is_kept() -> None:
    np.testing.assert_array_equal(highest(np.array([[1.0, 2, 1, 1]]), 2), [[True, True, False, False]])


def test_bad_input_is_refused_in_a_sentence(full: FlowRecord) -> None:
    with pytest.raises(ValueError, match="Give the full run"):
        contradiction(synthetic.flow_record(ENCODER, FlowCut(20)), 20)
    with pytest.raises(ValueError, match="1 to 64"):
        contradiction(full, 65)
    with pytest.raises(ValueError, match="1 to 16"):
        contradiction(replace(full, patches_per_token=4), 17)
    with pytest.raises(ValueError, match="knows no grid"):
        contradiction(replace(full, patches_per_token=4, geometries=()), 3)
    with pytest.raises(ValueError, match="'score', 'cls', 'similarity', 'value_norm', not by 'value'"):
        layer_rankings(full, cast(Any, "value"))
