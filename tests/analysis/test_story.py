"""Why a patch was cut: the story agrees with the record's cuts, patch by patch."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from flowcut.cut import Cut, FlowCut
from flowcut_lens.analysis.trajectory import keep_alive_twin, keep_alive_twins, patch_story
from tests.analysis import synthetic

RECORD = synthetic.flow_record(synthetic.Encoder(grid=12), FlowCut(tokens=20))


def test_a_patch_goes_where_its_rank_is_below_what_was_kept() -> None:
    for patch_id in range(RECORD.n_patches):
        story = patch_story(RECORD, patch_id)
        assert [chapter.layer for chapter in story] == list(range(len(story)))
        for chapter in story:
            if chapter.kept is None:
                assert not chapter.died
                assert np.isnan(chapter.cutoff)
                continue
            assert chapter.rank is not None
            assert chapter.died == (chapter.rank > chapter.kept)
            assert chapter.died == (chapter.margin < 0)
            assert chapter.margin == pytest.approx(chapter.running_score - chapter.cutoff, abs=1e-5)
        assert story[-1].died == (RECORD.died_at_layer[0, patch_id] >= 0)


def test_every_patch_that_went_has_a_twin_that_stayed_then() -> None:
    died = RECORD.died_at_layer[0]
    twins, cosines = keep_alive_twins(RECORD)
    np.testing.assert_array_equal(twins >= 0, died >= 0)
    np.testing.assert_array_equal(np.isnan(cosines), died < 0)
    outlived = 0
    for patch_id in np.flatnonzero(died >= 0).tolist():
        twin = keep_alive_twin(RECORD, patch_id)
        assert twin is not None
        assert (twin.patch_id, twin.cosine) == (twins[patch_id], cosines[patch_id])
        assert twin.died_at == died[twin.patch_id]
        assert twin.died_at < 0 or twin.died_at > died[patch_id]
        layer = RECORD.layers[died[patch_id]]
        assert layer.margin is not None
        assert layer.margin[0, layer.alive_patch_ids[0] == twin.patch_id] >= 0, "the stronger one"
        outlived += twin.died_at < 0
    assert 0 < outlived < (died >= 0).sum()


def test_what_stayed_or_was_recorded_before_twins_has_none() -> None:
    assert keep_alive_twin(RECORD, int(RECORD.kept_patch_ids[0, 0])) is None
    old = replace(RECORD, layers=tuple(replace(one, twin_patch_id=None, twin_cosine=None) for one in RECORD.layers))
    gone = int(np.flatnonzero(RECORD.died_at_layer[0] >= 0)[0])
    assert keep_alive_twin(old, gone) is None
    with pytest.raises(IndexError, match="not one of 144"):
        keep_alive_twin(RECORD, 144)
    with pytest.raises(ValueError, match="2 pictures"):
        keep_alive_twins(replace(RECORD, kept_patch_ids=np.zeros((2, 20), dtype=np.int64)))


def test_shares_are_told_against_an_even_share() -> None:
    layer = RECORD.layers[3]
    ids = layer.alive_patch_ids[0].tolist()
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
    record = replace(RECORD, layers=(level,), died_at_layer=np.full_like(RECORD.died_at_layer, -1))
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
