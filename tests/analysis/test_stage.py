"""What the browser's stage gets: masks, flows, edges and the picture, as in the records."""

from __future__ import annotations

import base64
import io
import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from flowcut.records.run import Run
from flowcut_lens.analysis.relay import DIRECTIONS, relay
from flowcut_lens.analysis.stage import axis_ticks, stage_payload
from flowcut_lens.analysis.trajectory import nearest_kept_patches
from tests.analysis import synthetic
from tests.analysis.synthetic import head_mean


@pytest.fixture(scope="module")
def runs() -> tuple[Run, Run]:
    return synthetic.pair(200, 120, tokens=20, encoder=synthetic.Encoder(grid=8, n_layers=8, n_heads=3))


def unpacked(text: str, dtype: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), dtype)


@pytest.fixture(scope="module")
def payload(runs: tuple[Run, Run]) -> dict:
    return json.loads(json.dumps(stage_payload(runs[0], runs[1], synthetic.picture(200, 120)), allow_nan=False))


def test_payload_carries_the_masks_and_flows(payload: dict, runs: tuple[Run, Run]) -> None:
    for name, run in zip(("full", "pruned"), runs, strict=True):
        record, packed = run.record, payload["runs"][name]
        assert record is not None
        assert unpacked(packed["prunedAt"], "<i2").tolist() == record.pruned_at_layer[0].tolist()
        assert unpacked(packed["nearestKept"], "<i2").tolist() == nearest_kept_patches(record)[0].tolist()
        assert packed["kept"] == record.kept_patch_ids.shape[1]
        assert packed["scored"] == (name == "pruned")
        for direction in DIRECTIONS:
            packed_flow = packed["flow"][direction]
            flow = (
                unpacked(packed_flow["data"], "<u2").reshape(len(record.layers), -1)
                * np.array(packed_flow["scale"])[:, None]
            )
            for layer in range(len(record.layers)):
                expected = head_mean(record, layer, direction)
                np.testing.assert_allclose(flow[layer, list(expected)], list(expected.values()), atol=2e-5)
                pruned = np.setdiff1d(np.arange(record.n_patches), list(expected))
                assert (flow[layer, pruned] == 0).all()


def test_payload_edges_and_heads(payload: dict, runs: tuple[Run, Run]) -> None:
    record = runs[1].record
    assert record is not None
    found = relay(record)
    for direction in DIRECTIONS:
        for layer, packed in zip(found.layers, payload["runs"]["pruned"]["edges"][direction], strict=True):
            flow = layer.flow(direction)
            assert packed["ids"] == flow.patch_ids.tolist()
            assert packed["weights"] == pytest.approx(flow.weights.tolist(), rel=1e-2)
            assert packed["shown"] == pytest.approx(flow.shown, abs=1e-4)
            heads = unpacked(packed["heads"], "u1").reshape(-1, record.n_heads)
            shares = unpacked(packed["shares"], "u1").reshape(-1, record.n_heads) / 255
            for edge in range(len(flow.patch_ids)):
                expected = flow.heads_of(edge)
                assert heads[edge].tolist() == [head for head, _ in expected]
                assert shares[edge].tolist() == pytest.approx([share for _, share in expected], abs=1 / 255)


def test_payload_says_which_layers_are_read_and_how_strong_the_strongest_edge_is(
    payload: dict, runs: tuple[Run, Run]
) -> None:
    assert payload["notRead"] == "not read by the language model"
    assert payload["claim"]["verdict"] in ("holds", "half holds", "does not hold")
    for name, run in zip(("full", "pruned"), runs, strict=True):
        assert run.record is not None
        assert payload["lastReadLayer"] == run.record.last_read_layer == len(run.record.layers) - 2
        for direction in DIRECTIONS:
            read = [head_mean(run.record, layer, direction).values() for layer in range(payload["lastReadLayer"] + 1)]
            assert payload["runs"][name]["strongest"][direction] == pytest.approx(max(map(max, read)), rel=1e-2)


def test_payload_picture_is_the_original(payload: dict) -> None:
    packed = payload["picture"]
    shown = Image.open(io.BytesIO(base64.b64decode(packed["url"].split(",")[1])))
    assert shown.size == (packed["width"], packed["height"]) == (200, 120)
    assert packed["seen"] == pytest.approx([40, 0, 160, 120], abs=1)
    assert [box[2] - box[0] for box in packed["unseen"]] == pytest.approx([40, 40], abs=1)


def test_payload_stays_small_for_a_large_encoder_and_picture() -> None:
    encoder = synthetic.Encoder(grid=24, n_layers=3, n_heads=16)
    full, pruned = synthetic.pair(3000, 2000, encoder=encoder)
    noise = np.random.default_rng(0).integers(0, 255, (200, 300, 3)).astype(np.uint8)
    payload = stage_payload(full, pruned, Image.fromarray(noise).resize((3000, 2000)))
    picture, rest = len(payload["picture"]["url"]), len(json.dumps(payload)) - len(payload["picture"]["url"])
    assert picture + rest * 24 / 3 < 1_500_000  # as many layers as CLIP-L


def test_payload_refuses_what_does_not_belong_together(runs: tuple[Run, Run]) -> None:
    full, pruned = runs
    picture = synthetic.picture(200, 120)
    with pytest.raises(ValueError, match="200 x 120: give the picture"):
        stage_payload(full, pruned, synthetic.picture(120, 200))
    with pytest.raises(ValueError, match="different pictures"):
        stage_payload(full, replace(pruned, image_hash="1" * 64), picture)
    with pytest.raises(ValueError, match="record=True"):
        stage_payload(full, replace(pruned, record=None), picture)


@pytest.mark.parametrize(("low", "high"), [(0.61, 0.99), (0, 1), (3, 576), (0.5, 0.5), (0.123, 0.127), (0, 0)])
def test_ticks_are_few_and_enclose_the_values(low: float, high: float) -> None:
    ticks = axis_ticks(low, high)
    assert 2 <= len(ticks) <= 6
    assert ticks[0] <= low + 1e-9
    assert ticks[-1] >= high - 1e-9
    assert np.allclose(np.diff(ticks), ticks[1] - ticks[0])
