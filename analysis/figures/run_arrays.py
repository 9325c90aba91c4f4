"""What a figure of a run shows, as arrays: computed once, drawn by `screen` (plotly) and by `paper` (matplotlib)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL.Image import Image, Resampling

from flowcut.records.vision import Geometry
from flowcut_lens.analysis.figures.run_style import HOW_TO_READ, facts, layer_colours
from flowcut_lens.analysis.findings import Claim, concentration_claim
from flowcut_lens.analysis.geometry import geometry_of
from flowcut_lens.analysis.graph import edges_of, layout, relay_graph
from flowcut_lens.analysis.measures import METRICS, Concentration, Curve, concentration
from flowcut_lens.analysis.relay import DIRECTIONS, Direction
from flowcut_lens.analysis.views import recorded

if TYPE_CHECKING:
    import networkx as nx

    from flowcut.records.run import Run

TILE_SIDE = 28
"""Pixels of a patch's own picture."""


@dataclass(frozen=True, eq=False)
class MaskArrays:
    """Which patches were pruned, and where they lie."""

    geometry: Geometry
    pruned_at: np.ndarray
    """int64 [rows, cols], the layer after which each patch was pruned; -1: kept."""
    colours: list[str]
    """Of the L layers, `#rrggbb`."""
    facts: str
    reads: str
    """How to read the figure."""


def mask_arrays(run: Run) -> MaskArrays:
    """The mask of a run.

    Raises:
        ValueError: the run was made without a record, or the record knows no picture.
    """
    record = recorded(run)
    geometry = geometry_of(record)
    pruned_at = record.pruned_at_layer[0].reshape(geometry.grid_rows, geometry.grid_cols)
    colours = layer_colours(record.n_layers)
    return MaskArrays(geometry, pruned_at, colours, facts(run, record), HOW_TO_READ["mask_figure"])


@dataclass(frozen=True, eq=False)
class ConcentrationArrays:
    """One metric of the CLS row through the layers, of an unpruned and a pruned run."""

    label: str
    """Of the metric."""
    titles: tuple[str, str]
    measured: tuple[Concentration, Concentration]
    curves: tuple[Curve, Curve]
    claim: Claim
    facts: str
    reads: str
    """How to read the figure."""

    @property
    def pruned(self) -> Concentration:
        """Of the pruned run, with the patches removed after each layer."""
        return self.measured[1]


def concentration_arrays(full: Run, pruned: Run, metric: str) -> ConcentrationArrays:
    """One metric of two runs.

    Raises:
        ValueError: no metric of this name, or a run without a record.
    """
    if metric not in METRICS:
        raise ValueError(f"The metric is {metric!r}: choose one of {', '.join(METRICS)}.")
    measured = concentration(recorded(full)), concentration(recorded(pruned))
    return ConcentrationArrays(
        label=METRICS[metric].label,
        titles=(full.title, pruned.title),
        measured=measured,
        curves=(measured[0].curve(metric), measured[1].curve(metric)),
        claim=concentration_claim(measured[0]),
        facts=facts(pruned, recorded(pruned)),
        reads=f"{METRICS[metric].reads} {HOW_TO_READ['concentration']}",
    )


@dataclass(frozen=True, eq=False)
class RelayArrays:
    """The relay graph laid out: x is the state between layers, y from -1 to 1, CLS at 0."""

    spine: np.ndarray
    """float64 [L + 1, 2], where CLS lies."""
    segments: dict[Direction, np.ndarray]
    """float64 [E, 2, 2], both ends of every edge."""
    shares: dict[Direction, np.ndarray]
    """float64 [E], each edge's weight over that of the strongest of all layers that are read, at most 1."""
    patches: list[tuple[int, float, float]]
    """Id and place of every patch that an edge begins or ends at."""
    tiles: list[Image]
    """Every patch's own pixels, by id."""
    n_layers: int
    """Layers recorded."""
    last_read_layer: int
    """The deepest layer whose output the language model reads."""
    facts: str
    reads: str
    """How to read the figure."""
    shown: str
    """How much of the flow the edges show."""


def relay_arrays(run: Run, picture: Image, mass: float, max_edges: int) -> RelayArrays:
    """The relay graph of a run through all layers.

    Raises:
        ValueError: the run was made without a record, the record knows no picture, or a limit is out of range.
    """
    record = recorded(run)
    graph = relay_graph(record, 0, mass, max_edges)
    places = layout(graph)
    edges = {direction: edges_of(graph, direction) for direction in DIRECTIONS}
    strongest = max(graph.graph["strongest"].values()) or 1.0
    return RelayArrays(
        spine=np.array([places[node] for node in places if node[0] == "cls"]),
        segments={d: np.array([(places[a], places[b]) for a, b, _ in edges[d]]).reshape(-1, 2, 2) for d in DIRECTIONS},
        shares={d: np.array([min(1.0, edge["weight"] / strongest) for *_, edge in edges[d]]) for d in DIRECTIONS},
        patches=[(node[2], *place) for node, place in places.items() if node[0] != "cls"],
        tiles=patch_tiles(picture, geometry_of(record)),
        n_layers=len(record.layers),
        facts=facts(run, record),
        last_read_layer=record.last_read_layer,
        reads=f"{HOW_TO_READ['relay']} {HOW_TO_READ['relay_figure']}",
        shown=_shown_in_words(graph),
    )


def _shown_in_words(graph: nx.DiGraph) -> str:
    """How much of the flow the edges show, and how much there is in each layer."""
    shown, total = graph.graph["shown_total"], graph.graph["total"]
    inflow, outflow = (", ".join(f"{flow:.2g}" for flow in total[direction]) for direction in DIRECTIONS)
    return (
        f"Shown: {shown['inflow']:.0%} of the inflow and {shown['outflow']:.0%} of the outflow of the layers that are "
        f"read. Totals by layer: what CLS pays to patches {inflow}; what patches pay to CLS, summed {outflow}."
    )


def patch_tiles(picture: Image, geometry: Geometry) -> list[Image]:
    """Every patch's own pixels as a small square; what lies outside the picture is black."""
    side = (TILE_SIDE, TILE_SIDE)
    corners = [tuple(round(edge) for edge in box) for box in geometry.boxes().tolist()]
    shown = picture.convert("RGB")
    return [
        shown.crop((left, top, max(right, left + 1), max(bottom, top + 1))).resize(side, Resampling.BILINEAR)
        for left, top, right, bottom in corners
    ]
