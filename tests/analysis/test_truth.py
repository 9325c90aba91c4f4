"""Ground truth: coverage pixel by pixel, recall and pointing by hand, the object's share of the flow head by head."""

from __future__ import annotations

import numpy as np
import pytest

from flowcut.cut import CutConfig, FlowCut
from flowcut.records.vision import Geometry
from flowcut_lens.analysis.agreement import layer_score
from flowcut_lens.analysis.relay import Direction
from flowcut_lens.analysis.truth import flow_kept, layer_truth, object_flow, patch_coverage, pointing_game, recall
from flowcut_lens.scenes import draw
from tests.analysis import synthetic


def test_coverage_equals_the_scenes_own_patches() -> None:
    scene = draw(4)
    geometry = synthetic.square_geometry(336, 336, 24)
    coverage = patch_coverage(scene.object_mask((0,)), geometry)
    own = scene.object_mask((0,)).reshape(24, 14, 24, 14).mean(axis=(1, 3)).ravel()
    np.testing.assert_allclose(coverage, own, atol=1e-9)


def test_coverage_where_patches_end_within_pixels_and_outside_the_picture() -> None:
    """30 x 20 pixels, put into the middle of a 60 x 60 input at 1.5 times their size: patches of 13.33 pixels."""
    geometry = Geometry(30, 20, 45, 30, -8, -15, 60, 60, 20, 3, 3)
    mask = np.random.default_rng(0).random((20, 30)) < 0.4
    coverage = patch_coverage(mask, geometry)
    for patch, (left, top, right, bottom) in enumerate(geometry.boxes()):
        total = 0.0
        for y, x in np.argwhere(mask):
            wide = max(0.0, min(right, x + 1) - max(left, x))
            high = max(0.0, min(bottom, y + 1) - max(top, y))
            total += wide * high
        assert coverage[patch] == pytest.approx(total / ((right - left) * (bottom - top)), abs=1e-9)
    with pytest.raises(ValueError, match="20 x 30 pixels, the picture 30 x 20"):
        patch_coverage(mask.T, geometry)


def test_recall_of_patches_and_of_pixels() -> None:
    kept = np.array([[1, 1, 0, 0], [0, 0, 1, 1]], bool)
    np.testing.assert_allclose(recall(np.array([True, False, True, True]), kept), [1 / 3, 2 / 3])
    np.testing.assert_allclose(recall(np.array([0.5, 0.25, 0, 0.25]), kept), [0.75, 0.25])
    assert np.isnan(recall(np.zeros(4, bool), kept)).all()


def test_the_pointing_game_shares_ties() -> None:
    rankings = np.array([[0, 3, 1, 2], [5, 0, 5, 5], [np.nan, np.nan, 1, 0], [np.nan] * 4])
    np.testing.assert_allclose(
        pointing_game(np.array([True, False, True, False]), rankings), [0, 2 / 3, 1, np.nan], equal_nan=True
    )
    assert np.isnan(pointing_game(np.zeros(4, bool), rankings)).all()


@pytest.mark.parametrize("cut", [None, FlowCut(20)])
def test_the_objects_share_of_the_flow(cut: CutConfig | None) -> None:
    record = synthetic.flow_record(synthetic.Encoder(grid=8, n_layers=6, n_heads=3), cut)
    shows = np.zeros(64, bool)
    shows[record.kept_patch_ids[0, :5]] = True
    shows[[0, 1, 2]] = True
    found = object_flow(record, shows)
    for index, layer in enumerate(record.layers):
        ids = layer.patch_ids[0]
        for head in range(3):
            for shares, row in ((found.inflow, layer.cls_row), (found.outflow, layer.cls_column)):
                whole = sum(float(row[0, head, 1 + place]) for place in range(len(ids)))
                view = sum(float(row[0, head, 1 + place]) for place, patch in enumerate(ids) if shows[patch])
                assert shares[index, head] == pytest.approx(view / whole, rel=1e-5)
        assert found.even[index] == pytest.approx(sum(shows[ids]) / len(ids))
    np.testing.assert_allclose(found.inflow_mean, found.inflow.mean(1))
    with pytest.raises(ValueError, match="of 63 patches, the record of 64"):
        object_flow(record, shows[:63])


def test_layers_alone_are_judged_one_by_one() -> None:
    record = synthetic.flow_record(synthetic.Encoder(grid=8, n_layers=6, n_heads=3), None)
    coverage = np.where(np.arange(64) % 9 == 0, np.linspace(0.1, 1, 64), 0)
    found = layer_truth(record, coverage, 10)
    assert list(found.layers) == [0, 1, 2, 3]  # the feature layer is 4
    running: np.ndarray | None = None
    for index, layer in enumerate(record.layers[:4]):
        row = layer.cls_row[0].astype(float).mean(0)[1:]
        score = layer_score(layer)
        running = score if running is None else 0.5 * running + 0.5 * score
        ranked = {
            "cls": row / row.sum(), "similarity": layer.similarity[0, 1:], "value_norm": layer.value_norm[0, 1:],
            "score": score, "running": running,
        }  # fmt: skip
        assert set(found.by) == set(ranked)
        for place, by in enumerate(found.by):
            strongest = sorted(range(64), key=lambda patch, by=by: -ranked[by][patch])
            held = sum(coverage[patch] for patch in strongest[:10]) / coverage.sum()
            assert found.recall[place, index] == pytest.approx(held)
            top = np.flatnonzero(ranked[by] == ranked[by].max())
            assert found.pointing[place, index] == pytest.approx(np.mean(coverage[top] > 0))
    pruned = synthetic.flow_record(synthetic.Encoder(grid=8, n_layers=6, n_heads=3), FlowCut(20))
    with pytest.raises(ValueError, match="Give the full run"):
        layer_truth(pruned, coverage, 10)
    with pytest.raises(ValueError, match="1 to 64"):
        layer_truth(record, coverage, 65)
    assert np.isnan(layer_truth(record, np.zeros(64), 10).recall).all()


@pytest.mark.parametrize("direction", ["inflow", "outflow"])
def test_the_flow_that_kept_patches_carry(direction: Direction) -> None:
    encoder = synthetic.Encoder(grid=8, n_layers=6, n_heads=3)
    record = synthetic.flow_record(encoder, None)
    rng = np.random.default_rng(3)
    coverage = np.where(np.arange(64) % 5 == 0, rng.random(64), 0)
    kept = np.stack([rng.random(64) < 0.3, np.ones(64, bool), np.zeros(64, bool)])
    found = flow_kept(record, coverage, kept, direction)
    for index, layer in enumerate(record.layers):
        flow = (layer.cls_row if direction == "inflow" else layer.cls_column)[0].astype(float)
        passing = [sum(flow[head, 1 + patch] for head in range(3)) * coverage[patch] for patch in range(64)]
        whole, view = sum(passing), sum(one for one, stays in zip(passing, kept[0], strict=True) if stays)
        assert found[0, index] == pytest.approx(view / whole, rel=1e-5)
    np.testing.assert_allclose(found[1:], [[1] * 6, [0] * 6])
    assert np.isnan(flow_kept(record, np.zeros(64), kept)).all()
    with pytest.raises(ValueError, match="give the full run"):
        flow_kept(synthetic.flow_record(encoder, FlowCut(20)), coverage, kept)
