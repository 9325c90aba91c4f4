"""Runs of several record rows: tiles and frames numbered together, drawn in panes, averaged."""

from __future__ import annotations

import base64
import json
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest

from flowcut.cut import FlowCut
from flowcut.records.run import Run
from flowcut.records.vision import PADDING_ID, FlowRecord, Geometry
from flowcut_lens.analysis.measures import concentration
from flowcut_lens.analysis.relay import relay
from flowcut_lens.analysis.stage import stage_payload
from flowcut_lens.analysis.views import frame_of_row, panes, place_of
from tests.analysis import synthetic

ENCODERS = [synthetic.Encoder(grid=6, n_layers=6, seed=seed) for seed in range(3)]
CROP = {"grid_rows": 6, "grid_cols": 6, "patch": 10, "input_width": 60, "input_height": 60}
WIDTH, HEIGHT = 120, 50
"""Of the picture: scaled by one, between padding above and below, it makes two crops."""


def geometries(names: tuple[str, ...]) -> tuple[Geometry, ...]:
    base = Geometry(WIDTH, HEIGHT, 60, 60, 0, 0, view=names[0], **CROP)
    crops = [Geometry(WIDTH, HEIGHT, WIDTH, HEIGHT, 60 * at, -5, view=names[1 + at], **CROP) for at in range(2)]
    return (base, *crops)


def joined(records: list[FlowRecord], places: tuple[Geometry, ...]) -> FlowRecord:
    """One record of several rows that kept the same number of patches at each layer."""

    def rows(items: list[Any]) -> Any:
        changed = {
            field.name: np.concatenate([getattr(item, field.name) for item in items])
            for field in fields(items[0])
            if isinstance(getattr(items[0], field.name), np.ndarray)
        }
        return replace(items[0], **changed)

    layers = [rows(list(parts)) for parts in zip(*(record.layers for record in records), strict=True)]
    return replace(rows(records), layers=tuple(layers), geometries=places)


@pytest.fixture(scope="module", params=[("base", "crop row 1, column 1", "crop row 1, column 2")])
def runs(request: pytest.FixtureRequest) -> tuple[Run, Run]:
    """Three tiles; the pruned run is a cut of all at once, so that each layer has as many patches in every tile."""
    places = geometries(request.param)
    whole = joined([synthetic.flow_record(encoder) for encoder in ENCODERS], places)
    at_once = FlowCut(9)
    cut = replace(
        whole,
        cut=at_once,
        pruned_at_layer=np.where(np.arange(36)[None] % 4 == 0, -1, 4).repeat(3, axis=0),
        kept_patch_ids=np.arange(0, 36, 4)[None].repeat(3, axis=0),
    )
    return synthetic.run(whole), synthetic.run(cut)


def test_patches_are_numbered_through_all_rows(runs: tuple[Run, Run]) -> None:
    record = runs[0].record
    assert record is not None
    assert [place_of(record, patch) for patch in (0, 35, 36, 107)] == [(0, 0), (0, 35), (1, 0), (2, 35)]
    with pytest.raises(IndexError, match="108"):
        place_of(record, 108)
    unequal = replace(record, pruned_at_layer=np.where(np.arange(36) < 30, record.pruned_at_layer, PADDING_ID))
    assert place_of(unequal, 30) == (1, 0)


def test_crops_lie_together_and_the_base_apart() -> None:
    shown = panes(geometries(("base", "crop row 1, column 1", "crop row 1, column 2")))
    assert [pane.rows for pane in shown] == [(0,), (1, 2)]
    assert "12 × 6 patches" in shown[1].title
    assert [pane.rows for pane in panes(geometries(("frame 1", "frame 2", "frame 3")))] == [(0,), (1,), (2,)]


def test_slices_of_two_frames_show_the_first_of_them() -> None:
    assert [frame_of_row(row, 3, 3) for row in range(3)] == [0, 1, 2]
    assert [frame_of_row(row, 2, 3) for row in range(2)] == [0, 2]


def test_the_mean_is_the_mean_of_what_each_row_shows(runs: tuple[Run, Run]) -> None:
    record = runs[0].record
    assert record is not None
    of_rows = [[layer.inflow for layer in relay(record, row, mass=1, max_edges=1000).layers] for row in range(3)]
    mean = relay(record, None, mass=1, max_edges=1000)
    for index, layer in enumerate(mean.layers):
        expected = {
            36 * row + int(patch): weight / 3
            for row, flows in enumerate(of_rows)
            for patch, weight in zip(flows[index].patch_ids, flows[index].weights, strict=True)
        }
        found = dict(zip(layer.inflow.patch_ids.tolist(), layer.inflow.weights, strict=True))
        assert found == pytest.approx(expected, rel=1e-9)
        assert layer.inflow.total + layer.cls_to_itself == pytest.approx(1, abs=1e-5)
    curves = [concentration(record, row).gini.per_head for row in range(3)]
    np.testing.assert_allclose(concentration(record, None).gini.per_head, np.mean(curves, axis=0))
    assert concentration(record, None).n_patches.tolist() == [108] * 6


@pytest.mark.parametrize("view", [0, 2, None])
def test_the_payload_draws_all_tiles_and_the_edges_of_one(runs: tuple[Run, Run], view: int | None) -> None:
    picture = synthetic.picture(WIDTH, HEIGHT)
    full, cut = (replace(run, image_size=(WIDTH, HEIGHT)) for run in runs)
    packed = json.loads(json.dumps(stage_payload(full, cut, picture, view=view), allow_nan=False))
    assert "picture" not in packed
    assert [[grid["first"] for grid in pane["grids"]] for pane in packed["panes"]] == [[0], [36, 72]]
    left, right = (grid["box"] for grid in packed["panes"][1]["grids"])
    assert left == [0, -5, 60, 55]
    assert right == [60, -5, 120, 55]
    assert packed["panes"][1]["unseen"] == []
    pruned_at = np.frombuffer(base64.b64decode(packed["runs"]["pruned"]["prunedAt"]), "<i2")
    record = runs[1].record
    assert record is not None
    assert pruned_at.tolist() == record.pruned_at_layer.flatten().tolist()
    ids = {patch for layer in packed["runs"]["full"]["edges"]["inflow"] for patch in layer["ids"]}
    assert {patch // 36 for patch in ids} == ({0, 1, 2} if view is None else {view})
    assert packed["runs"]["pruned"]["removed"][4] == (81 if view is None else 27)
    name = "mean of 3 tiles" if view is None else record.geometries[view].view
    assert packed["viewName"] == name
    assert name in packed["claim"]["run"]
    assert name in packed["runs"]["full"]["facts"]
