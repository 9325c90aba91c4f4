"""Why a patch was cut: the story agrees with the record's cuts, patch by patch."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from flowcut.cut import Cut, FlowCut
from flowcut_lens.analysis.trajectory import nearest_kept_patch, nearest_kept_patches, patch_story
from tests.analysis import synthetic

RECORD = synthetic.flow_record(synthetic.Encoder(grid=12), FlowCut(tokens=20))


def test_a_patch_goes_where_its_rank_is_below_what_was_kept() -> None:
    for patch_id in range(RECORD.n_patches):
        story = patch_story(RECORD, patch_id)
        assert [chapter.layer for chapter in story] == list(range(len(story)))
        for chapter in story:
            if chapter.kept is None:
                assert not chapter.pruned_at
                assert np.isnan(chapter.cutoff)
                continue
            assert chapter.rank is not None
            assert chapter.pruned_at == (chapter.rank > chapter.kept)
            assert chapter.pruned_at == (chapter.margin < 0)
            assert chapter.margin == pytest.approx(chapter.running_score - chapter.cutoff, abs=1e-5)
        assert story[-1].pruned_at == (RECORD.pruned_at_layer[0, patch_id] >= 0)


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
    gone = int(np.flatnonzero(RECORD.pruned_at_layer[0] >= 0)[0])
    assert nearest_kept_patch(old, gone) is None
    with pytest.raises(IndexError, match="not one of 144"):
        nearest_kept_patch(RECORD, 144)
    with pytest.raises(ValueError, match="2 pictures"):
        nearest_kept_patches(replace(RECORD, kept_patch_ids=np.zeros((2, 20), dtype=np.int64)))


def test_shares_are_told_against_an_even_share() -> None:
    layer = RECORD.layers[3]
    ids = layer.patch_ids[0].tolist()
    told = {patch_id: patch_story(RECORD, patch_id)[3] for patch_id in ids}
    for name in ("cls_attention", "similarity", "value_norm", "score", "running_score"):
        assert np.mean([getattr(chapter, name) for chapter in told.values()]) == pytest.approx(1, abs=1e-4), name
    assert sorted(chapter.rank or 0 for chapter in told.values()) == list(range(1, len(ids) + 1))
    first = max(told.values(), key=lambda chapter: chapter.running_score)
    assert first.rank == 1
    assert layer.relation is not None
    assert told[ids[5]].cls_attention == pytest.approx(float(layer.relation[0, 5]) * len(ids), rel=1e-4)


def test_of_equal_scores_the_first_is_ahead() -> None:
    layer = RECORD.layers[0]
    level = replace(layer, cumulative=np.ones_like(layer.score), step=None, margin=None, cutoff=None)
    record = replace(RECORD, layers=(level,), pruned_at_layer=np.full_like(RECORD.pruned_at_layer, -1))
    assert [patch_story(record, patch_id)[0].rank for patch_id in range(5)] == [1, 2, 3, 4, 5]


def test_a_method_that_does_not_score_has_no_rank() -> None:
    record = synthetic.flow_record(synthetic.Encoder(grid=8))
    story = patch_story(replace(record, cut=Cut("stride", tokens=4)), 7)
    assert len(story) == record.n_layers
    assert all(chapter.rank is None and np.isnan(chapter.score) for chapter in story)
    assert all(chapter.cls_attention > 0 for chapter in story)


@pytest.mark.parametrize("patch_id", [-1, 144])
def test_patches_that_are_not_there(patch_id: int) -> None:
    with pytest.raises(IndexError, match="not one of 144"):
        patch_story(RECORD, patch_id)


def test_several_pictures_at_once() -> None:
    two = replace(RECORD, kept_patch_ids=np.zeros((2, 20), dtype=np.int64))
    with pytest.raises(ValueError, match="2 pictures"):
        patch_story(two, 0)
