"""What CLS gathers from patches at each layer, what patches take from it: the strongest edges, and how much they are.

In layer l a patch's state before the layer flows into CLS's state after it with the attention that CLS pays (the CLS
row, *inflow*), and CLS's state before the layer flows into a patch's state after it with the attention that the patch
pays (the CLS column, *outflow*). What is gathered in layer l can therefore be handed on from layer l + 1.

Weights are head-mean attention. The inflow of a layer sums to 1 minus what CLS keeps for itself, the outflow to at most
the number of patches: the two are never added up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from flowcut.records.vision import FlowRecord, LayerFlow
from flowcut_lens.analysis.views import first_patches, images_of

MASS = 0.8
MAX_EDGES = 48
"""Per layer and direction: more cannot be distinguished on a screen."""

Direction = Literal["inflow", "outflow"]
DIRECTIONS: tuple[Direction, Direction] = ("inflow", "outflow")


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
    """Head-mean attention summed over all kept patches, shown or not."""

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
    last_read_layer: int
    """The deepest layer whose output the language model reads."""
    mass: float
    """Share of each layer's flow that the edges should show."""
    max_edges: int
    """The cap that may keep a layer below it."""

    def shown(self, direction: Direction) -> float:
        """Share that the edges carry of the flow of all layers together that lead to what the language model reads."""
        flows = self._read(direction)
        total = sum(flow.total for flow in flows)
        return float(sum(flow.weights.sum() for flow in flows) / total) if total > 0 else 1.0

    def strongest(self, direction: Direction) -> float:
        """Weight of the strongest edge of these layers; 0 where there is none."""
        return max((float(flow.weights[0]) for flow in self._read(direction) if len(flow.weights)), default=0.0)

    def _read(self, direction: Direction) -> list[Flow]:
        return [layer.flow(direction) for layer in self.layers if layer.layer <= self.last_read_layer]


def relay(record: FlowRecord, batch: int | None = 0, mass: float = MASS, max_edges: int = MAX_EDGES) -> Relay:
    """The strongest edges of every layer: as few as carry `mass` of its flow, but no more than `max_edges`.

    Of one row of the record; or, with batch None, the mean of all rows (tiles, frames): each row's CLS is one of B that
    are taken as one, so that an edge has the B-th part of its attention. Patches are then numbered through all rows.

    Raises:
        ValueError: mass or max_edges out of range, or a record without layers.
    """
    if not 0 < mass <= 1:
        raise ValueError(f"mass is {mass!r}: it must be above 0 and at most 1.")
    if max_edges < 1:
        raise ValueError(f"max_edges is {max_edges!r}: it must be at least 1.")
    images = images_of(record, batch)
    first = first_patches(images)
    layers = zip(*(image.layers for image in images), strict=True)
    found = tuple(_relay_layer(layer, first, mass, max_edges) for layer in layers)
    return Relay(found, images[0].last_read_layer, mass, max_edges)


def _relay_layer(rows: Sequence[LayerFlow], first: Sequence[int], mass: float, max_edges: int) -> RelayLayer:
    """One layer of all rows; `first` is each row's first patch in the numbering through all of them."""
    ids = np.concatenate([one + layer.patch_ids[0] for one, layer in zip(first, rows, strict=True)])
    gathers = [layer.cls_row[0].astype(np.float64) / len(rows) for layer in rows]
    is_read = [layer.cls_column[0].astype(np.float64) / len(rows) for layer in rows]
    inflow = _strongest(ids, np.concatenate([each[:, 1:] for each in gathers], axis=1), mass, max_edges)
    outflow = _strongest(ids, np.concatenate([each[:, 1:] for each in is_read], axis=1), mass, max_edges)
    return RelayLayer(rows[0].layer, inflow, outflow, float(sum(each[:, 0].mean() for each in gathers)))


def _strongest(ids: np.ndarray, attention: np.ndarray, mass: float, max_edges: int) -> Flow:
    """The fewest patches whose head-mean attention [H, N] sums to `mass` of the total, at most `max_edges`."""
    mean = attention.mean(axis=0)
    strongest_first = np.argsort(-mean, kind="stable")
    reached = np.cumsum(mean[strongest_first])
    # The last partial sum and mean.sum() may differ in the last digit: compare with what was accumulated.
    needed = int(np.searchsorted(reached, mass * reached[-1] * (1 - 1e-12))) + 1
    chosen = strongest_first[: min(needed, max_edges, len(ids))]
    chosen = chosen[mean[chosen] > 0]  # nothing reads a proxy: no edge at all
    return Flow(ids[chosen], mean[chosen], attention[:, chosen].T, float(reached[-1]))
