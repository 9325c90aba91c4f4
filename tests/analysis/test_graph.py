"""The relay graph: the strongest edges, their share of the flow, and the layout."""

from __future__ import annotations

import networkx as nx
import numpy as np
import pytest

from flowcut.records.run import Run
from flowcut.records.vision import FlowRecord
from flowcut_lens.analysis.graph import layout, relay_graph
from flowcut_lens.analysis.relay import DIRECTIONS, Flow, relay
from tests.analysis import synthetic
from tests.analysis.synthetic import head_mean


@pytest.fixture(scope="module")
def runs() -> tuple[Run, Run]:
    return synthetic.pair(200, 120, tokens=20, encoder=synthetic.Encoder(grid=8, n_layers=8, n_heads=3))


@pytest.fixture(scope="module", params=["full", "pruned"])
def record(request: pytest.FixtureRequest, runs: tuple[Run, Run]) -> FlowRecord:
    chosen = runs[request.param == "pruned"].record
    assert chosen is not None
    return chosen


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


def test_the_full_flow_is_of_all_patches(record: FlowRecord) -> None:
    found = relay(record, mass=1, max_edges=1000)
    for layer, flow in zip(found.layers, record.layers, strict=True):
        assert layer.inflow.shown == pytest.approx(1)
        assert sorted(layer.outflow.patch_ids) == flow.patch_ids[0].tolist()
        assert layer.inflow.total + layer.cls_to_itself == pytest.approx(1, abs=1e-5)


def test_total_share_weighs_layers_by_their_flow(record: FlowRecord) -> None:
    found = relay(record, max_edges=4)
    read = found.layers[: record.last_read_layer + 1]
    assert len(read) == len(found.layers) - 1
    for direction in DIRECTIONS:
        shown = sum(sum(layer.flow(direction).weights) for layer in read)
        total = sum(sum(head_mean(record, layer.layer, direction).values()) for layer in read)
        assert found.shown(direction) == pytest.approx(shown / total, rel=1e-5)
        strongest = max(max(head_mean(record, layer.layer, direction).values()) for layer in read)
        assert found.strongest(direction) == pytest.approx(strongest, rel=1e-6)


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


def test_pruned_patches_have_no_edges(runs: tuple[Run, Run]) -> None:
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
