"""The relay graph: the strongest edges, what share of the flow they truly are, and a layout that keeps its promises."""

from __future__ import annotations

import base64
import io
import json
from dataclasses import replace

import networkx as nx
import numpy as np
import pytest
from PIL import Image

from flowcut.records.run import Run
from flowcut.records.vision import FlowRecord
from flowcut_lens.analysis.graph import axis_ticks, layout, relay_graph, stage_payload
from flowcut_lens.analysis.relay import DIRECTIONS, Flow, relay
from flowcut_lens.analysis.trajectory import nearest_kept_patches
from tests.analysis import synthetic


@pytest.fixture(scope="module")
def runs() -> tuple[Run, Run]:
    return synthetic.pair(200, 120, tokens=20, encoder=synthetic.Encoder(grid=8, n_layers=8, n_heads=3))


@pytest.fixture(scope="module", params=["full", "pruned"])
def record(request: pytest.FixtureRequest, runs: tuple[Run, Run]) -> FlowRecord:
    chosen = runs[request.param == "pruned"].record
    assert chosen is not None
    return chosen


def head_mean(record: FlowRecord, layer: int, direction: str) -> dict[int, float]:
    """Every patch's flow, the slow way."""
    flow = record.layers[layer]
    attention = flow.cls_row if direction == "inflow" else flow.cls_column
    ids = flow.patch_ids[0]
    return {
        int(patch): float(np.mean([attention[0, head, 1 + place] for head in range(record.n_heads)], dtype=np.float64))
        for place, patch in enumerate(ids)
    }


@pytest.mark.parametrize(("mass", "cap"), [(0.5, 1000), (0.8, 1000), (1.0, 1000), (0.8, 5), (1e-9, 5)])
def test_edges_are_the_fewest_strongest_and_their_share_is_true(record: FlowRecord, mass: float, cap: int) -> None:
    found = relay(record, mass=mass, max_edges=cap)
    for layer in found.layers:
        for direction in DIRECTIONS:
            flow, everything = layer.flow(direction), head_mean(record, layer.layer, direction)
            total = sum(everything.values())
            strongest = sorted(everything.values(), reverse=True)
            assert list(flow.weights) == pytest.approx(strongest[: len(flow.weights)], rel=1e-6)
            assert [everything[int(patch)] for patch in flow.patch_ids] == pytest.approx(list(flow.weights), rel=1e-6)
            assert flow.shown == pytest.approx(sum(flow.weights) / total, rel=1e-6)
            assert len(flow.weights) == cap or flow.shown >= mass - 1e-6
            assert len(flow.weights) == 1 or sum(flow.weights[:-1]) / total < mass


def test_whole_flow_is_all_patches(record: FlowRecord) -> None:
    found = relay(record, mass=1, max_edges=1000)
    for layer, flow in zip(found.layers, record.layers, strict=True):
        assert layer.inflow.shown == pytest.approx(1)
        assert sorted(layer.outflow.patch_ids) == flow.patch_ids[0].tolist()
        assert layer.inflow.total + layer.cls_to_itself == pytest.approx(1, abs=1e-5)


def test_total_share_weighs_layers_by_their_flow(record: FlowRecord) -> None:
    found = relay(record, max_edges=4)
    for direction in DIRECTIONS:
        shown = sum(sum(layer.flow(direction).weights) for layer in found.layers)
        total = sum(sum(head_mean(record, layer.layer, direction).values()) for layer in found.layers)
        assert found.shown(direction) == pytest.approx(shown / total, rel=1e-5)


def test_heads_are_strongest_first_and_add_up() -> None:
    flow = Flow(np.array([7]), np.array([0.2]), np.array([[0.1, 0.5, 0.0]]), 1.0)
    assert flow.heads_of(0) == [(1, pytest.approx(5 / 6)), (0, pytest.approx(1 / 6)), (2, 0.0)]


@pytest.mark.parametrize(("mass", "cap"), [(0, 5), (1.2, 5), (float("nan"), 5), (0.8, 0)])
def test_limits_are_checked(record: FlowRecord, mass: float, cap: int) -> None:
    with pytest.raises(ValueError, match="it must be"):
        relay(record, mass=mass, max_edges=cap)


def test_graph_goes_left_to_right_through_cls(record: FlowRecord) -> None:
    graph = relay_graph(record, max_edges=10)
    assert nx.is_directed_acyclic_graph(graph)
    for a, b, data in graph.edges(data=True):
        states = graph.nodes[a]["state"], graph.nodes[b]["state"]
        assert states[1] - states[0] == (0 if data["kind"] == "same" else 1)
        assert "cls" in (a[0], b[0]) or data["kind"] == "same"
        if data["kind"] in DIRECTIONS:
            assert sum(share for _, share in data["heads"]) == pytest.approx(1)
            assert [share for _, share in data["heads"]] == sorted((s for _, s in data["heads"]), reverse=True)
    for direction in DIRECTIONS:
        shares = nx.get_edge_attributes(graph, "share")
        by_layer = np.zeros(len(record.layers))
        for a, b, data in graph.edges(data=True):
            if data["kind"] == direction:
                by_layer[data["layer"]] += shares[a, b]
        np.testing.assert_allclose(by_layer, graph.graph["shown"][direction], rtol=1e-9)


def test_dead_patches_have_no_edges(runs: tuple[Run, Run]) -> None:
    record = runs[1].record
    assert record is not None
    graph = relay_graph(record, mass=1, max_edges=1000)
    for node, patch in graph.nodes(data="patch"):
        if patch is not None:
            pruned_at = record.pruned_at_layer[0][patch]
            assert pruned_at < 0 or pruned_at >= node[1]


def test_layout_puts_no_node_on_another(record: FlowRecord) -> None:
    graph = relay_graph(record, max_edges=30)
    places = layout(graph)
    assert set(places) == set(graph.nodes)
    assert len(set(places.values())) == len(places)
    for node, (x, y) in places.items():
        if node[0] == "cls":
            assert (x, y) == (node[1], 0)
        else:
            assert node[1] < x < node[1] + 1
            assert 0 < (y if node[0] == "source" else -y) <= 1


def unpacked(text: str, dtype: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), dtype)


@pytest.fixture(scope="module")
def payload(runs: tuple[Run, Run]) -> dict:
    return json.loads(json.dumps(stage_payload(runs[0], runs[1], synthetic.picture(200, 120)), allow_nan=False))


def test_payload_carries_the_masks_and_flows(payload: dict, runs: tuple[Run, Run]) -> None:
    for name, run in zip(("full", "pruned"), runs, strict=True):
        record, packed = run.record, payload["runs"][name]
        assert record is not None
        assert unpacked(packed["died"], "<i2").tolist() == record.pruned_at_layer[0].tolist()
        assert unpacked(packed["twins"], "<i2").tolist() == nearest_kept_patches(record)[0].tolist()
        assert packed["kept"] == record.kept_patch_ids.shape[1]
        assert packed["scored"] == (name == "pruned")
        for direction in DIRECTIONS:
            whole = packed["flow"][direction]
            flow = unpacked(whole["data"], "<u2").reshape(len(record.layers), -1) * np.array(whole["scale"])[:, None]
            for layer in range(len(record.layers)):
                expected = head_mean(record, layer, direction)
                np.testing.assert_allclose(flow[layer, list(expected)], list(expected.values()), atol=2e-5)
                dead = np.setdiff1d(np.arange(record.n_patches), list(expected))
                assert (flow[layer, dead] == 0).all()


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
