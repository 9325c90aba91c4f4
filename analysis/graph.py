"""The CLS-relay graph for networkx, and its layout."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import networkx as nx
import numpy as np

from flowcut.records.vision import FlowRecord
from flowcut_lens.analysis.relay import DIRECTIONS, MASS, MAX_EDGES, Direction, RelayLayer, relay

Node = tuple[Any, ...]
"""("cls", state), ("source", layer, patch id) or ("destination", layer, patch id); states count from 0 to L."""


def relay_graph(
    record: FlowRecord, batch: int | None = 0, mass: float = MASS, max_edges: int = MAX_EDGES
) -> nx.DiGraph:
    """The relay of one row of the record, or (batch None) the mean of all, as a layered directed graph.

    Nodes: ("cls", s) for s = 0 .. L, CLS's state before layer s (L: after the last), and for each shown edge of layer l
    ("source", l, patch id) or ("destination", l, patch id). Edges have `kind`: inflow (source -> CLS l+1) and outflow
    (CLS l -> destination), each with `layer`, `weight`, `share` of the layer's flow and `heads` (strongest first);
    relay (CLS l -> CLS l+1, weight: what CLS keeps for itself); and same (destination -> source of the next layer,
    where both are shown: the patch carries on what it took). The graph itself has `mass`, `max_edges`, `total`
    {direction: [flow per layer, shown or not]}, `shown` {direction: [share per layer]}, and of all layers up to
    `last_read_layer`, the last that the language model reads, `shown_total` {direction: share} and `strongest`
    {direction: weight of the strongest edge}. The browser's stage draws this graph.
    """
    found = relay(record, batch, mass, max_edges)
    graph = nx.DiGraph(
        mass=mass,
        max_edges=max_edges,
        total={d: [layer.flow(d).total for layer in found.layers] for d in DIRECTIONS},
        shown={d: [layer.flow(d).shown for layer in found.layers] for d in DIRECTIONS},
        shown_total={d: found.shown(d) for d in DIRECTIONS},
        strongest={d: found.strongest(d) for d in DIRECTIONS},
        last_read_layer=found.last_read_layer,
    )
    graph.add_nodes_from((("cls", state), {"kind": "cls", "state": state}) for state in range(len(found.layers) + 1))
    for index, layer in enumerate(found.layers):
        graph.add_edge(("cls", index), ("cls", index + 1), kind="relay", layer=layer.layer, weight=layer.cls_to_itself)
        _add_flow(graph, index, layer, "inflow")
        _add_flow(graph, index, layer, "outflow")
    graph.add_edges_from(_carried_on(graph), kind="same")
    return graph


def _add_flow(graph: nx.DiGraph, index: int, layer: RelayLayer, direction: Direction) -> None:
    flow = layer.flow(direction)
    role = "source" if direction == "inflow" else "destination"
    for rank, (patch, weight) in enumerate(zip(flow.patch_ids.tolist(), flow.weights.tolist(), strict=True)):
        node = (role, index, patch)
        graph.add_node(node, kind=role, state=index + (role == "destination"), patch=patch, rank=rank)
        ends = (node, ("cls", index + 1)) if direction == "inflow" else (("cls", index), node)
        share = weight / flow.total if flow.total > 0 else 0.0
        graph.add_edge(*ends, kind=direction, layer=layer.layer, weight=weight, share=share, heads=flow.heads_of(rank))


def _carried_on(graph: nx.DiGraph) -> Iterable[tuple[Node, Node]]:
    destinations = [node for node, kind in graph.nodes(data="kind") if kind == "destination"]
    pairs = ((node, ("source", node[1] + 1, node[2])) for node in destinations)
    return [pair for pair in pairs if pair[1] in graph]


def edges_of(graph: nx.DiGraph, kind: str) -> list[tuple[Node, Node, dict[str, Any]]]:
    """All edges of one kind, layer by layer and strongest first, as they were added."""
    return [(one, other, edge) for one, other, edge in graph.edges(data=True) if edge["kind"] == kind]


BLOCK_ROWS = 12
"""Patches stacked in one column of the layout before the next column begins."""


def layout(graph: nx.DiGraph) -> dict[Node, tuple[float, float]]:
    """Places for every node: x is the state, left to right; CLS on the spine y = 0, sources above, destinations below.

    Within a block the strongest edge is nearest the spine; blocks are at most BLOCK_ROWS high (|y| <= 1) and take the
    middle of the gap between two states, so that no node lies on another.
    """
    nodes = list(graph.nodes)
    patches = [node for node in nodes if node[0] != "cls"]
    places: dict[Node, tuple[float, float]] = {node: (float(node[1]), 0.0) for node in nodes if node[0] == "cls"}
    if not patches:
        return places
    rank = np.array([graph.nodes[node]["rank"] for node in patches])
    gap = np.array([node[1] for node in patches])
    source = np.array([node[0] == "source" for node in patches])
    column, row = np.divmod(rank, BLOCK_ROWS)
    step = 0.7 / max(1, -(-graph.graph["max_edges"] // BLOCK_ROWS))
    x = np.where(source, gap + 0.08 + column * step, gap + 0.92 - column * step)
    y = np.where(source, 1.0, -1.0) * (0.2 + 0.8 * row / (BLOCK_ROWS - 1))
    places.update(zip(patches, zip(x.tolist(), y.tolist(), strict=True), strict=True))
    return places
