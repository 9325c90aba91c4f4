"""Everything that the browser's stage draws, packed for JSON.

What each of the payload's keys holds is said where it is packed.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from flowcut.records.vision import FlowRecord
from flowcut_lens.analysis import geometry as places
from flowcut_lens.analysis.data_url import picture_url
from flowcut_lens.analysis.figures import run_style
from flowcut_lens.analysis.findings import concentration_claim
from flowcut_lens.analysis.graph import edges_of, relay_graph
from flowcut_lens.analysis.measures import METRICS, Concentration, Metric, concentration
from flowcut_lens.analysis.relay import DIRECTIONS, MASS, MAX_EDGES, Direction
from flowcut_lens.analysis.trajectory import nearest_kept_patches
from flowcut_lens.analysis.views import (
    NOT_READ,
    Pane,
    first_patches,
    frame_of_row,
    images_of,
    panes,
    recorded,
    seen_box,
)

if TYPE_CHECKING:
    import networkx as nx
    from PIL.Image import Image

    from flowcut.records.run import Run
    from flowcut.records.vision import Geometry

PICTURE_SIDE = 1024
"""Longest side of the picture sent to the browser, px: twice the size it is drawn at."""


def stage_payload(
    full: Run,
    pruned: Run,
    picture: Image | Sequence[Image],
    mass: float = MASS,
    max_edges: int = MAX_EDGES,
    view: int | None = 0,
) -> dict[str, Any]:
    """All that the stage draws for one question: picture, masks, relay edges and curves of two runs, ready for JSON.

    All patches of all layers travel as base64 of little-endian arrays: int16 [N], the layer at which each patch was
    pruned (`prunedAt`; -1: kept) and its nearest kept patch (`nearestKept`; -1: none); uint16 [L, N], in- and outflow
    (times `scale[l]`); uint8 [K, H], an edge's heads and their shares (/ 255). By layer, `entering` counts the patches,
    `requested` those that the entropy requested, and `clamped` says where the count was clamped.

    Where the encoder saw the picture in several views (tiles, frames), masks and flows are those of all views, patches
    numbered through them; edges, curves and counts are those of `view`. In place of `picture` there are then
    `pictures`, the `panes` drawn on them, and the `views` by name.

    Args:
        full: the unpruned run, recorded.
        pruned: the run to hold against it, recorded, of the same model and picture.
        picture: the original, EXIF orientation applied; of a video its frames.
        mass: share of each layer's flow that its edges should show.
        max_edges: the most edges per layer and direction.
        view: the row of the records whose edges and curves are packed; None: the mean of all rows.

    Raises:
        ValueError: a run without record, or of another picture; mass or max_edges out of range.
        IndexError: the records have no such row.
    """
    pictures = list(picture) if isinstance(picture, Sequence) else [picture]
    records = [_recorded(run, pictures[0]) for run in (full, pruned)]
    shapes = [(record.batch, record.n_patches) for record in records]
    if full.image_hash != pruned.image_hash or shapes[0] != shapes[1]:
        raise ValueError("These runs show different pictures or models: give two runs of one question.")
    measured = [concentration(record, view) for record in records]
    graphs = [relay_graph(record, view, mass, max_edges) for record in records]
    claim = concentration_claim(measured[0], "this picture" if records[0].batch == 1 else _name(records[0], view))
    return {
        **_pack_pictures(pictures, records[0], view),
        "layers": len(records[0].layers),
        "heads": records[0].n_heads,
        "lastReadLayer": records[0].last_read_layer,
        "mass": mass,
        "maxEdges": max_edges,
        "runs": {
            "full": _pack_run(full, records[0], measured[0], graphs[0], view),
            "pruned": _pack_run(pruned, records[1], measured[1], graphs[1], view),
        },
        "curves": [_pack_metric(name, metric, measured) for name, metric in METRICS.items()],
        "claim": asdict(claim),
        "notRead": NOT_READ,
        "howToRead": run_style.HOW_TO_READ,
        "layerColours": run_style.layer_colours(records[0].n_layers),
    }


def _recorded(run: Run, picture: Image) -> FlowRecord:
    recorded(run)  # for its sentence where there is no record
    if tuple(run.image_size) != picture.size:
        width, height = run.image_size
        raise ValueError(
            f"The picture is {picture.width} x {picture.height}, the run “{run.title}” saw one of "
            f"{width} x {height}: give the picture that the question was about."
        )
    assert run.record is not None
    return run.record


def _name(record: FlowRecord, view: int | None) -> str:
    """Which row a figure is of, or that it is the mean of all."""
    noun = "frames" if record.geometries[0].view.startswith("frame") else "tiles"
    return f"mean of {record.batch} {noun}" if view is None else record.geometries[view].view


def _pack_pictures(pictures: Sequence[Image], record: FlowRecord, view: int | None) -> dict[str, Any]:
    """What the mask is drawn on: one picture under one grid, or panes, each with the grids of its rows."""
    if record.batch == 1:
        return {"picture": _pack_picture(pictures[0], places.geometry_of(record))}
    places.geometry_of(record)  # for its sentence where no picture is known
    first = first_patches(images_of(record, None))
    shown = panes(record.geometries)
    return {
        "pictures": [picture_url(picture, PICTURE_SIDE, quality=90) for picture in pictures],
        "panes": [_pack_pane(pane, record.geometries, first, len(pictures)) for pane in shown],
        "views": [geometry.view for geometry in record.geometries],
        "view": view,
        "viewName": _name(record, view),
    }


def _pack_pane(pane: Pane, geometries: Sequence[Geometry], first: list[int], frames: int) -> dict[str, Any]:
    """One picture and the grids on it: places in original pixels, patches by their number on their own grid."""
    own = [geometries[row] for row in pane.rows]
    canvases = np.array([places.canvas_box(geometry) for geometry in own])
    seen = seen_box(own)
    return {
        "title": pane.title,
        "picture": frame_of_row(pane.rows[0], len(geometries), frames) if frames > 1 else 0,
        "width": own[0].original_width,
        "height": own[0].original_height,
        "canvas": _rounded([*canvases[:, :2].min(axis=0), *canvases[:, 2:].max(axis=0)]),
        "seen": _rounded(seen),
        "unseen": [_rounded(box) for box in places.strips_around(seen, own[0].original_width, own[0].original_height)],
        "grids": [
            {"view": row, "first": first[row], "padding": _padding(geometries[row]), **_pack_grid(geometries[row])}
            for row in pane.rows
        ],
    }


def _pack_picture(picture: Image, geometry: Geometry) -> dict[str, Any]:
    """The picture as a data URL, and where grid, crop and padding lie on it, in original pixels."""
    return {
        "url": picture_url(picture, PICTURE_SIDE, quality=90),
        "width": geometry.original_width,
        "height": geometry.original_height,
        "canvas": _rounded(places.canvas_box(geometry)),
        "grid": _pack_grid(geometry),
        "seen": _rounded(geometry.seen_box()),
        "unseen": [_rounded(box) for box in places.unseen_boxes(geometry)],
        "padding": _padding(geometry),
    }


def _pack_grid(geometry: Geometry) -> dict[str, Any]:
    return {"box": _rounded(places.grid_box(geometry)), "rows": geometry.grid_rows, "cols": geometry.grid_cols}


def _padding(geometry: Geometry) -> list[int]:
    """Patches that show nothing of the picture."""
    return np.flatnonzero(places.picture_share(geometry) < 1e-6).tolist()


def _pack_run(
    run: Run, record: FlowRecord, measured: Concentration, graph: nx.DiGraph, view: int | None
) -> dict[str, Any]:
    rows, chosen = images_of(record, None), images_of(record, view)
    first = 0 if view is None else first_patches(rows)[view]
    layers = measured.layers.tolist()
    requested, entropy = _requested(chosen), _entropy_of_cuts(chosen)
    return {
        "title": run.title,
        **_pack_views(record, chosen, run_style.facts(run, record), view),
        "kept": sum(int(image.kept_patch_ids.shape[1]) for image in rows),
        "prunedAt": _base64(np.concatenate([image.pruned_at_layer[0] for image in rows]), "<i2"),
        "nearestKept": _base64(_nearest_kept(rows), "<i2"),
        "entering": measured.n_patches.tolist(),
        "removed": measured.removed.tolist(),
        "clamped": measured.clamped.tolist(),
        "scored": any(layer.scored for image in chosen for layer in image.layers),
        "requested": [requested.get(layer) for layer in layers],
        "requestedEntropy": [_rounded_or_none(entropy.get(layer)) for layer in layers],
        "shown": {direction: round(graph.graph["shown_total"][direction], 4) for direction in DIRECTIONS},
        "strongest": {way: float(f"{weight:.3g}") for way, weight in graph.graph["strongest"].items()},
        "edges": {direction: _pack_edges(graph, direction, record.n_heads, first) for direction in DIRECTIONS},
        "flow": {direction: _pack_full_flow(rows, direction) for direction in DIRECTIONS},
        "clsToItself": _rounded([edge["weight"] for *_, edge in edges_of(graph, "relay")], 4),
    }


def _pack_views(record: FlowRecord, chosen: Sequence[FlowRecord], facts: str, view: int | None) -> dict[str, Any]:
    """The facts; where there are several views, with the view's name and the number of its patches."""
    if record.batch == 1:
        return {"facts": facts}
    return {"facts": f"{facts} · {_name(record, view)}", "patches": sum(image.n_patches for image in chosen)}


def _requested(chosen: Sequence[FlowRecord]) -> dict[int, int | None]:
    """By layer, how many patches the entropy requested; None for several views, of which each requests its own."""
    steps = [step for image in chosen for step in image.steps]
    return {step.layer: step.requested if len(chosen) == 1 else None for step in steps}


def _entropy_of_cuts(chosen: Sequence[FlowRecord]) -> dict[int, float]:
    """By layer, the entropy ratio at the cut, mean over the views."""
    ratios: dict[int, list[float]] = {}
    for step in (step for image in chosen for step in image.steps):
        ratios.setdefault(step.layer, []).append(float(step.entropy_ratio[0]))
    return {layer: float(np.mean(values)) for layer, values in ratios.items()}


def _nearest_kept(rows: list[FlowRecord]) -> np.ndarray:
    """int64, the nearest kept patch of every patch, both numbered through all views; -1: none."""
    found = [nearest_kept_patches(image)[0] for image in rows]
    pairs = zip(found, first_patches(rows), strict=True)
    return np.concatenate([np.where(nearest_kept >= 0, nearest_kept + first, -1) for nearest_kept, first in pairs])


def _pack_edges(graph: nx.DiGraph, direction: Direction, n_heads: int, first: int) -> list[dict[str, Any]]:
    """Each layer's edges in one direction, strongest first, and for each edge its heads, strongest first.

    Args:
        first: what the graph's patch 0 is, numbered through all rows.
    """
    by_layer: list[list[tuple[int, dict[str, Any]]]] = [[] for _ in graph.graph["total"][direction]]
    for one, other, edge in edges_of(graph, direction):
        node = one if direction == "inflow" else other
        by_layer[node[1]].append((node[2], edge))
    return [
        {
            "ids": [first + patch for patch, _ in edges],
            "weights": [float(f"{edge['weight']:.3g}") for _, edge in edges],
            "total": float(f"{graph.graph['total'][direction][index]:.4g}"),
            "shown": round(graph.graph["shown"][direction][index], 4),
            **_pack_heads([edge["heads"] for _, edge in edges], n_heads),
        }
        for index, edges in enumerate(by_layer)
    ]


def _pack_heads(heads: list[list[tuple[int, float]]], n_heads: int) -> dict[str, str]:
    """uint8 [K, H] each: an edge's heads, and their shares of it in 255ths."""
    table = np.array(heads, dtype=np.float64).reshape(len(heads), n_heads, 2)
    return {"heads": _base64(table[..., 0], "u1"), "shares": _base64(np.round(255 * table[..., 1]), "u1")}


def _pack_full_flow(rows: Sequence[FlowRecord], direction: Direction) -> dict[str, Any]:
    """Head-mean attention between its row's CLS and every patch, 0 where it is pruned: [L, N], a scale per layer."""
    flow = np.zeros((len(rows[0].layers), sum(image.n_patches for image in rows)))
    for first, image in zip(first_patches(rows), rows, strict=True):
        for index, layer in enumerate(image.layers):
            attention = layer.cls_row if direction == "inflow" else layer.cls_column
            flow[index, first + layer.patch_ids[0]] = attention[0, :, 1:].mean(axis=0)
    scale = np.maximum(flow.max(axis=1), np.finfo(np.float32).tiny) / np.iinfo(np.uint16).max
    return {"data": _base64(np.round(flow / scale[:, None]), "<u2"), "scale": [float(f"{step:.6g}") for step in scale]}


def _pack_metric(name: str, metric: Metric, measured: list[Concentration]) -> dict[str, Any]:
    curves = [each.curve(name) for each in measured]
    low = min(float(np.nanmin(curve.per_head)) for curve in curves)
    high = max(float(np.nanmax(curve.per_head)) for curve in curves)
    packed = [
        {"mean": _rounded(curve.head_mean, 4), "low": _rounded(curve.band[0], 4), "high": _rounded(curve.band[1], 4)}
        for curve in curves
    ]
    return {
        "key": name,
        "label": metric.label,
        "unit": metric.unit,
        "reads": metric.reads,
        "ticks": axis_ticks(low, high),
        "full": packed[0],
        "pruned": packed[1],
    }


def axis_ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers, evenly spaced, at most `most`, from at or below `low` to at or above `high`."""
    span = max(high - low, 1e-6)
    power = 10.0 ** np.floor(np.log10(span))
    for step in power * np.array([0.2, 0.25, 0.5, 1.0, 2.0, 5.0]):
        first, last = np.floor(low / step + 1e-9), np.ceil(high / step - 1e-9)
        if last - first + 1 <= most:
            break
    return [round(float(place * step), 9) for place in np.arange(first, max(last, first + 1) + 1)]


def _base64(array: np.ndarray, dtype: str) -> str:
    return base64.b64encode(np.ascontiguousarray(array.astype(dtype)).tobytes()).decode()


def _rounded(values: Iterable[float], digits: int = 2) -> list[float | None]:
    return [_rounded_or_none(value, digits) for value in values]


def _rounded_or_none(value: float | None, digits: int = 2) -> float | None:
    """A float for JSON, which has no NaN: None stands for it."""
    return None if value is None or np.isnan(value) else round(float(value), digits)
