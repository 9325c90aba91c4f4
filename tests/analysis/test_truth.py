"""Ground truth: coverage pixel by pixel, recall and pointing by hand, the object's share of the flow head by head."""

from __future__ import annotations

import numpy as np
import pytest

from analysis.truth import object_flow, patch_coverage, pointing_game, recall
from flowcut.record import Geometry
from flowcut.schedule import CutConfig, FlowCut
from scenes import draw
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
        ids = layer.alive_patch_ids[0]
        for head in range(3):
            for shares, row in ((found.inflow, layer.cls_row), (found.outflow, layer.cls_column)):
                whole = sum(float(row[0, head, 1 + place]) for place in range(len(ids)))
                part = sum(float(row[0, head, 1 + place]) for place, patch in enumerate(ids) if shows[patch])
                assert shares[index, head] == pytest.approx(part / whole, rel=1e-5)
        assert found.alive[index] == pytest.approx(sum(shows[ids]) / len(ids))
    np.testing.assert_allclose(found.inflow_mean, found.inflow.mean(1))
    with pytest.raises(ValueError, match="of 63 patches, the record of 64"):
        object_flow(record, shows[:63])
