"""The CLS-relay graph: what CLS gathers from patches at each layer, and what patches take from it.

In layer l a patch's state before the layer flows into CLS's state after it with the attention that CLS pays (the CLS
row, *inflow*), and CLS's state before the layer flows into a patch's state after it with the attention that the patch
pays (the CLS column, *outflow*). What is gathered in layer l can therefore be handed on from layer l + 1.

`relay(record)` chooses the strongest edges and says what share of the flow they are; `relay_graph` builds the networkx
graph; `layout` places it; `stage_payload` packs everything that the browser draws. Weights are head-mean attention;
the inflow of a layer sums to 1 minus what CLS keeps for itself, the outflow to at most the number of patches.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import networkx as nx
import numpy as np

from analysis.measures import one_image
from flowcut.record import FlowRecord, LayerFlow

MASS = 0.8
MAX_EDGES = 48
"""Per layer and direction: more cannot be told apart on a screen."""

Direction = Literal["inflow", "outflow"]
DIRECTIONS: tuple[Direction, Direction] = ("inflow", "outflow")

Node = tuple[Any, ...]
"""("cls", state), ("source", layer, patch id) or ("destination", layer, patch id); states count from 0 to L."""


@dataclass(frozen=True, eq=False)
class Flow:
    """The strongest edges of one layer in one direction, strongest first; K edges, H heads."""

    patch_ids: np.ndarray
    """int64 [K]."""
    weights: np.ndarray
    """float64 [K], head-mean attention."""
    heads: np.ndarray
    """float64 [K, H], each head's attention."""
    total: float
    """Head-mean attention summed over all patches alive, shown or not."""

    @property
    def shown(self) -> float:
        """Share of the flow that the edges carry, 0 to 1; 1 where there is no flow at all."""
        return float(self.weights.sum() / self.total) if self.total > 0 else 1.0

    def heads_of(self, edge: int) -> list[tuple[int, float]]:
        """Which heads carry an edge, strongest first: head and its share of the edge's attention."""
        total = self.heads[edge].sum()
        shares = self.heads[edge] / total if total > 0 else self.heads[edge]
        return [(int(head), float(shares[head])) for head in np.argsort(-shares, kind="stable")]


@dataclass(frozen=True, eq=False)
class RelayLayer:
    """The relay in one layer."""

    layer: int
    inflow: Flow
    outflow: Flow
    cls_to_itself: float
    """Head-mean attention that CLS pays to itself: what it keeps."""

    def flow(self, direction: Direction) -> Flow:
        """One of the two directions."""
        return self.inflow if direction == "inflow" else self.outflow


@dataclass(frozen=True, eq=False)
class Relay:
    """The relay through all layers that ran."""

    layers: tuple[RelayLayer, ...]
    mass: float
    """Share of each layer's flow that was wanted."""
    max_edges: int
    """The cap that may keep a layer below it."""

    def shown(self, direction: Direction) -> float:
        """Share of the flow of all layers together that the edges carry."""
        flows = [layer.flow(direction) for layer in self.layers]
        total = sum(flow.total for flow in flows)
        return float(sum(flow.weights.sum() for flow in flows) / total) if total > 0 else 1.0


def relay(record: FlowRecord, batch: int = 0, mass: float = MASS, max_edges: int = MAX_EDGES) -> Relay:
    """The strongest edges of every layer: as few as carry `mass` of its flow, but no more than `max_edges`.

    Raises:
        ValueError: mass or max_edges out of range, or a record without layers.
    """
    if not 0 < mass <= 1:
        raise ValueError(f"mass is {mass!r}: it must be above 0 and at most 1.")
    if max_edges < 1:
        raise ValueError(f"max_edges is {max_edges!r}: it must be at least 1.")
    image = one_image(record, batch)
    return Relay(tuple(_relay_layer(layer, mass, max_edges) for layer in image.layers), mass, max_edges)


def _relay_layer(layer: LayerFlow, mass: float, max_edges: int) -> RelayLayer:
    ids = layer.alive_patch_ids[0]
    row, column = layer.cls_row[0].astype(np.float64), layer.cls_column[0].astype(np.float64)
    inflow = _strongest(ids, row[:, 1:], mass, max_edges)
    outflow = _strongest(ids, column[:, 1:], mass, max_edges)
    return RelayLayer(layer.layer, inflow, outflow, float(row[:, 0].mean()))


def _strongest(ids: np.ndarray, attention: np.ndarray, mass: float, max_edges: int) -> Flow:
    """The fewest patches whose head-mean attention [H, N] sums to `mass` of the whole, at most `max_edges`."""
    mean = attention.mean(axis=0)
    strongest_first = np.argsort(-mean, kind="stable")
    reached = np.cumsum(mean[strongest_first])
    # The last partial sum and mean.sum() may differ in the last digit: compare with what was accumulated.
    needed = int(np.searchsorted(reached, mass * reached[-1] * (1 - 1e-12))) + 1
    chosen = strongest_first[: min(needed, max_edges, len(ids))]
    return Flow(ids[chosen], mean[chosen], attention[:, chosen].T, float(reached[-1]))


def relay_graph(record: FlowRecord, batch: int = 0, mass: float = MASS, max_edges: int = MAX_EDGES) -> nx.DiGraph:
    """The relay as a layered directed graph.

    Nodes: ("cls", s) for s = 0 .. L, CLS's state before layer s (L: after the last), and for each shown edge of layer l
    ("source", l, patch id) or ("destination", l, patch id). Edges have `kind`: inflow (source -> CLS l+1) and outflow
    (CLS l -> destination), each with `layer`, `weight`, `share` of the layer's flow and `heads` (strongest first);
    relay (CLS l -> CLS l+1, weight: what CLS keeps for itself); and same (destination -> source of the next layer,
    where both are shown: the patch carries on what it took). The graph itself has `mass`, `max_edges`, and
    `shown` {direction: [share per layer]} and `shown_total` {direction: share}.
    """
    found = relay(record, batch, mass, max_edges)
    graph = nx.DiGraph(
        mass=mass,
        max_edges=max_edges,
        shown={d: [layer.flow(d).shown for layer in found.layers] for d in DIRECTIONS},
        shown_total={d: found.shown(d) for d in DIRECTIONS},
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
