"""Why a patch was cut: the trajectory agrees with the record's cuts, patch by patch."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from flowcut.cut import Cut, FlowCut
from flowcut_lens.analysis.trajectory import nearest_kept_patch, nearest_kept_patches, trace_patch
from tests.analysis import synthetic

RECORD = synthetic.flow_record(synthetic.Encoder(grid=12), FlowCut(tokens=20))


def test_a_patch_goes_where_its_rank_is_below_what_was_kept() -> None:
    for patch_id in range(RECORD.n_patches):
        trajectory = trace_patch(RECORD, patch_id)
        assert [trace.layer for trace in trajectory] == list(range(len(trajectory)))
        for trace in trajectory:
            if trace.kept is None:
                assert not trace.pruned
                assert np.isnan(trace.cutoff)
                continue
            assert trace.rank is not None
            assert trace.pruned == (trace.rank > trace.kept)
            assert trace.pruned == (trace.margin < 0)
            assert trace.margin == pytest.approx(trace.running_score - trace.cutoff, abs=1e-5)
        assert trajectory[-1].pruned == (RECORD.pruned_at_layer[0, patch_id] >= 0)


def test_every_patch_that_went_has_a_twin_that_stayed_then() -> None:
    pruned_at = RECORD.pruned_at_layer[0]
    nearest_kept, cosines = nearest_kept_patches(RECORD)
    np.testing.assert_array_equal(nearest_kept >= 0, pruned_at >= 0)
    np.testing.assert_array_equal(np.isnan(cosines), pruned_at < 0)
    outlived = 0
    for patch_id in np.flatnonzero(pruned_at >= 0).tolist():
        nearest = nearest_kept_patch(RECORD, patch_id)
        assert nearest is not None
        assert (nearest.patch_id, nearest.cosine) == (nearest_kept[patch_id], cosines[patch_id])
        assert nearest.pruned_at == pruned_at[nearest.patch_id]
        assert nearest.pruned_at < 0 or nearest.pruned_at > pruned_at[patch_id]
        layer = RECORD.layers[pruned_at[patch_id]]
        assert layer.margin is not None
        assert layer.margin[0, layer.patch_ids[0] == nearest.patch_id] >= 0, "the stronger one"
        outlived += nearest.pruned_at < 0
    assert 0 < outlived < (pruned_at >= 0).sum()


def test_what_stayed_or_was_recorded_before_twins_has_none() -> None:
    assert nearest_kept_patch(RECORD, int(RECORD.kept_patch_ids[0, 0])) is None
    old = replace(
        RECORD, layers=tuple(replace(one, nearest_kept_id=None, nearest_kept_cosine=None) for one in RECORD.layers)
    )
    pruned = int(np.flatnonzero(RECORD.pruned_at_layer[0] >= 0)[0])
    assert nearest_kept_patch(old, pruned) is None
    with pytest.raises(IndexError, match="not one of 144"):
        nearest_kept_patch(RECORD, 144)
    with pytest.raises(ValueError, match="2 pictures"):
        nearest_kept_patches(replace(RECORD, kept_patch_ids=np.zeros((2, 20), dtype=np.int64)))


def test_shares_are_traces_against_an_even_share() -> None:
    layer = RECORD.layers[3]
    ids = layer.patch_ids[0].tolist()
    traces = {patch_id: trace_patch(RECORD, patch_id)[3] for patch_id in ids}
    for name in ("cls_attention", "similarity", "value_norm", "score", "running_score"):
        assert np.mean([getattr(trace, name) for trace in traces.values()]) == pytest.approx(1, abs=1e-4), name
    assert sorted(trace.rank or 0 for trace in traces.values()) == list(range(1, len(ids) + 1))
    first = max(traces.values(), key=lambda trace: trace.running_score)
    assert first.rank == 1
    assert layer.relation is not None
    assert traces[ids[5]].cls_attention == pytest.approx(float(layer.relation[0, 5]) * len(ids), rel=1e-4)


def test_of_equal_scores_the_first_is_ahead() -> None:
    layer = RECORD.layers[0]
    level = replace(layer, cumulative=np.ones_like(layer.score), step=None, margin=None, cutoff=None)
    record = replace(RECORD, layers=(level,), pruned_at_layer=np.full_like(RECORD.pruned_at_layer, -1))
    assert [trace_patch(record, patch_id)[0].rank for patch_id in range(5)] == [1, 2, 3, 4, 5]


def test_a_method_that_does_not_score_has_no_rank() -> None:
    record = synthetic.flow_record(synthetic.Encoder(grid=8))
    trajectory = trace_patch(replace(record, cut=Cut("stride", tokens=4)), 7)
    assert len(trajectory) == record.n_layers
    assert all(trace.rank is None and np.isnan(trace.score) for trace in trajectory)
    assert all(trace.cls_attention > 0 for trace in trajectory)


@pytest.mark.parametrize("patch_id", [-1, 144])
def test_patches_that_are_not_there(patch_id: int) -> None:
    with pytest.raises(IndexError, match="not one of 144"):
        trace_patch(RECORD, patch_id)


def test_several_pictures_at_once() -> None:
    two = replace(RECORD, kept_patch_ids=np.zeros((2, 20), dtype=np.int64))
    with pytest.raises(ValueError, match="2 pictures"):
        trace_patch(two, 0)
