"""What is kept, attended to and passed on of the objects that a question is about, where their pixels are known."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from flowcut.records.vision import FlowRecord, Geometry
from flowcut_lens.analysis.agreement import (
    RANKED,
    accumulated,
    highest,
    patches_of_budget,
    scored_layers,
    scored_rankings,
)
from flowcut_lens.analysis.relay import Direction
from flowcut_lens.analysis.views import one_image


def patch_coverage(mask: np.ndarray, geometry: Geometry) -> np.ndarray:
    """float64 [N], the share of each patch's area that shows an object; what lies outside the picture shows none.

    Args:
        mask: bool [height, width] of the original picture, the object's pixels.
        geometry: from patches to the same picture.

    Raises:
        ValueError: the mask has not the picture's size.
    """
    if mask.shape != (geometry.original_height, geometry.original_width):
        raise ValueError(
            f"The mask is {mask.shape[1]} x {mask.shape[0]} pixels, the picture "
            f"{geometry.original_width} x {geometry.original_height}: give a mask of the same size."
        )
    # Summed from the top left corner, and read between pixels, so that patches may end within a pixel.
    summed = np.pad(mask.astype(np.float64).cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))
    left, top, right, bottom = geometry.boxes().T
    inside = _between(summed, bottom, right) - _between(summed, top, right)
    inside -= _between(summed, bottom, left) - _between(summed, top, left)
    share: np.ndarray = inside / ((right - left) * (bottom - top))
    return share


def _between(summed: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Bilinear reading of a table at points [N], clipped to its edges."""
    height, width = summed.shape
    y, x = np.clip(y, 0, height - 1), np.clip(x, 0, width - 1)
    row, column = np.minimum(y.astype(int), height - 2), np.minimum(x.astype(int), width - 2)
    down, across = y - row, x - column
    upper = summed[row, column] * (1 - across) + summed[row, column + 1] * across
    lower = summed[row + 1, column] * (1 - across) + summed[row + 1, column + 1] * across
    return np.asarray(upper * (1 - down) + lower * down)


def recall(shows: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """float64 [M], the share of the object that each kept set holds; NaN where the question is about no object.

    Args:
        shows: [N], how much of the object each patch shows: bool for a share of patches, coverage for one of pixels.
        kept: bool [M, N]; T/N is what a random choice keeps on average.
    """
    total = shows.sum(dtype=np.float64)
    held = kept.astype(np.float64) @ shows.astype(np.float64)
    share: np.ndarray = np.divide(held, total, out=np.full(len(kept), np.nan), where=total > 0)
    return share


def pointing_game(shows: np.ndarray, rankings: np.ndarray) -> np.ndarray:
    """float64 [M], 1 where a ranking's highest patch shows the object, else 0; of ties at the top their share.

    NaN where the question is about no object, or the ranking ranks nothing.

    Args:
        shows: bool [N].
        rankings: [M, N], higher = kept longer; NaN: not ranked.
    """
    highest = np.full(len(rankings), np.nan)
    ranked = ~np.isnan(rankings).all(axis=1)
    if not shows.any() or not ranked.any():
        return highest
    top = rankings[ranked] == np.nanmax(rankings[ranked], axis=1, keepdims=True)
    highest[ranked] = (top & shows).sum(axis=1) / top.sum(axis=1)
    return highest


RUNNING = "running"
"""The accumulated score up to a layer, beside what the layer alone ranks by."""


@dataclass(frozen=True, eq=False)
class LayerTruth:
    """What single layers would keep of an object, by each of R rankings; L layers."""

    layers: np.ndarray
    """int64 [L], the vision layers that FlowCut scores."""
    by: tuple[str, ...]
    """What is ranked by: those of `analysis.agreement.Ranked`, and `running`."""
    recall: np.ndarray
    """float64 [R, L], the share of the object in the T highest patches; NaN: the question is about no object."""
    pointing: np.ndarray
    """float64 [R, L], as from `pointing_game`."""


def layer_truth(record: FlowRecord, coverage: np.ndarray, tokens: int, batch: int = 0) -> LayerTruth:
    """Recall and pointing game of every layer alone, and of the accumulated score up to it.

    Args:
        record: of an unpruned run.
        coverage: float [N], how much of the object each patch shows.
        tokens: the budget T, in tokens of the language model.
        batch: which picture of the record.

    Raises:
        ValueError: the run was pruned, the budget is out of range, or the record has no layers.
    """
    image = one_image(record, batch)
    alone = [scored_rankings(image, by) for by in RANKED]
    rankings = np.stack([*alone, accumulated(alone[RANKED.index("score")])])
    rows = rankings.reshape(-1, image.n_patches)
    held = recall(coverage, highest(rows, patches_of_budget(image, tokens)))
    pointed = pointing_game(coverage > 0, rows)
    shape = rankings.shape[:2]
    return LayerTruth(scored_layers(image), (*RANKED, RUNNING), held.reshape(shape), pointed.reshape(shape))


def flow_kept(
    record: FlowRecord, coverage: np.ndarray, kept: np.ndarray, direction: Direction = "inflow", batch: int = 0
) -> np.ndarray:
    """float64 [M, L], of the flow between CLS and an object, the part that is of patches in each kept set.

    Recall of the object's pixels, with every patch weighed by what flows through it in that layer of the unpruned run,
    mean over heads. NaN where nothing flows, or the question is about no object.

    Args:
        record: of an unpruned run.
        coverage: float [N], how much of each patch shows the object.
        kept: bool [M, N].
        direction: `inflow` for what CLS gathers, `outflow` for what it hands back.
        batch: which picture of the record.

    Raises:
        ValueError: the run was pruned, or has no layers.
    """
    image = one_image(record, batch)
    if (image.pruned_at_layer >= 0).any():
        raise ValueError("This run was pruned: give the full run, whose flow every criterion is held against.")
    flows = [layer.cls_row if direction == "inflow" else layer.cls_column for layer in image.layers]
    of_object = np.array([flow[0, :, 1:].mean(axis=0, dtype=np.float64) for flow in flows]) * coverage
    return np.stack([recall(flow, kept) for flow in of_object], axis=1)


@dataclass(frozen=True, eq=False)
class ObjectFlow:
    """How much of what passes through CLS comes from, or goes to, the patches of an object; L layers, H heads."""

    layers: np.ndarray
    """int64 [L]."""
    inflow: np.ndarray
    """float64 [L, H], the object's share of what CLS gathers from patches (CLS row, CLS itself left out)."""
    outflow: np.ndarray
    """float64 [L, H], its share of what patches take from CLS (CLS column, CLS itself left out); NaN: a proxy."""
    even: np.ndarray
    """float64 [L], its share of the kept patches: what even attention would give."""
    last_read_layer: int
    """The deepest layer whose output the language model reads."""

    @property
    def inflow_mean(self) -> np.ndarray:
        """float64 [L], mean over heads."""
        return np.asarray(self.inflow.mean(axis=1))

    @property
    def outflow_mean(self) -> np.ndarray:
        """float64 [L], mean over heads."""
        return np.asarray(self.outflow.mean(axis=1))


def object_flow(record: FlowRecord, shows: np.ndarray, batch: int = 0) -> ObjectFlow:
    """The share of the flow through CLS that is an object's, by layer and head.

    Args:
        record: of a run, pruned or not.
        shows: bool [N0], the patches that show the object.
        batch: which picture of the record.

    Raises:
        ValueError: `shows` is not of the record's patches, or the record has no layers.
    """
    image = one_image(record, batch)
    if shows.shape != (image.n_patches,):
        raise ValueError(f"`shows` is of {len(shows)} patches, the record of {image.n_patches}: give one per patch.")
    on = [shows[layer.patch_ids[0]] for layer in image.layers]
    rows = [_share_on(layer.cls_row[0, :, 1:], there) for layer, there in zip(image.layers, on, strict=True)]
    columns = [_share_on(layer.cls_column[0, :, 1:], there) for layer, there in zip(image.layers, on, strict=True)]
    layers = np.array([layer.layer for layer in image.layers])
    even = np.array([there.mean() for there in on])
    return ObjectFlow(layers, np.array(rows), np.array(columns), even, image.last_read_layer)


def _share_on(attention: np.ndarray, there: np.ndarray) -> np.ndarray:
    """float64 [H], the share of each head's attention [H, N] on some of the patches; NaN where there is none."""
    attention = attention.astype(np.float64)
    total = attention.sum(axis=1)
    on_some = attention[:, there].sum(axis=1)
    share: np.ndarray = np.divide(on_some, total, out=np.full(len(total), np.nan), where=total > 0)
    return share
