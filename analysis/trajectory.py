"""Why a patch was pruned, or kept: its criteria, score, rank and the cut-off through the layers, and its margin.

Ranks count from 1, the highest running score among the kept patches; of equal scores the one nearer the top
left of the grid is ahead, as in the cut itself.

A pruned patch has a nearest kept patch: of the patches kept at that cut, the one whose value vector in that layer (all
heads joined) has the highest cosine with its own.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from flowcut.records.vision import FlowRecord, LayerFlow


@dataclass(frozen=True)
class LayerTrace:
    """One patch in one layer. What FlowCut did not score there is NaN (None for the rank)."""

    layer: int
    n_patches: int
    """N, kept patches."""
    cls_attention: float
    """Head-mean attention of CLS to the patch, over patches alone, times N: 1 is an even share."""
    similarity: float
    """The patch's share of the value similarity to CLS, times N: 1 is an even share."""
    value_norm: float
    """L1 norm of the head-mean value over its mean among the kept patches."""
    score: float
    """S of this layer alone, over its mean among the kept patches."""
    running_score: float
    """C, over its mean among the kept patches; the unit of `cutoff` and `margin` too."""
    rank: int | None
    """Place by running score, 1 is the highest."""
    kept: int | None
    """How many patches are kept after this layer; None where none is pruned."""
    cutoff: float
    """Running score of the weakest kept patch; NaN where none is pruned."""
    margin: float
    """Running score less the cut-off: negative for a pruned patch."""
    clamped: bool
    """Whether the count of this cut was set to the budget, not requested by entropy."""
    pruned: bool
    """Whether the patch is pruned after this layer."""


@dataclass(frozen=True)
class NearestKept:
    """The kept patch whose value vector is nearest to that of a pruned one."""

    patch_id: int
    cosine: float
    """Of the two value vectors, all heads joined, in the layer after which the other is pruned."""
    pruned_at: int
    """The layer after which the nearest kept patch is pruned later; -1: never."""


def nearest_kept_patches(record: FlowRecord) -> tuple[np.ndarray, np.ndarray]:
    """Every patch's nearest kept patch: int64 [N0] patch ids and float64 [N0] cosines; -1 and NaN where there is none.

    A patch that is kept to the end has none; in records of the first version none has.

    Raises:
        ValueError: the record is of several pictures.
    """
    _check_one_picture(record)
    nearest_kept, cosines = np.full(record.n_patches, -1), np.full(record.n_patches, np.nan)
    for layer in record.layers:
        if layer.nearest_kept_id is None or layer.nearest_kept_cosine is None:
            continue
        pruned = layer.nearest_kept_id[0] >= 0
        nearest_kept[layer.patch_ids[0, pruned]] = layer.nearest_kept_id[0, pruned]
        cosines[layer.patch_ids[0, pruned]] = layer.nearest_kept_cosine[0, pruned]
    return nearest_kept, cosines


def nearest_kept_patch(record: FlowRecord, patch_id: int) -> NearestKept | None:
    """The nearest kept patch of one patch; None where it has none.

    Raises:
        IndexError: no such patch on the grid.
        ValueError: the record is of several pictures.
    """
    _check_patch(record, patch_id)
    nearest_kept, cosines = nearest_kept_patches(record)
    nearest = int(nearest_kept[patch_id])
    return (
        None if nearest < 0 else NearestKept(nearest, float(cosines[patch_id]), int(record.pruned_at_layer[0, nearest]))
    )


def trace_patch(record: FlowRecord, patch_id: int) -> tuple[LayerTrace, ...]:
    """A patch from layer 0 to the last layer that it is kept for.

    Args:
        record: of one picture (B = 1), with its flow.
        patch_id: on the grid from 0.

    Raises:
        IndexError: no such patch on the grid.
        ValueError: the record is of several pictures.
    """
    _check_patch(record, patch_id)
    pruned_at = int(record.pruned_at_layer[0, patch_id])
    return tuple(
        _layer_trace(layer, patch_id, pruned_at) for layer in record.layers if pruned_at < 0 or layer.layer <= pruned_at
    )


def _check_patch(record: FlowRecord, patch_id: int) -> None:
    _check_one_picture(record)
    if not 0 <= patch_id < record.n_patches:
        raise IndexError(f"Patch {patch_id} is not one of {record.n_patches}.")


def _check_one_picture(record: FlowRecord) -> None:
    if record.batch != 1:
        raise ValueError(f"This record is of {record.batch} pictures: take one, with record.image(0).")


def _layer_trace(layer: LayerFlow, patch_id: int, pruned_at: int) -> LayerTrace:
    ids = layer.patch_ids[0]
    at = int(np.flatnonzero(ids == patch_id)[0])
    running = None if layer.cumulative is None else layer.cumulative[0]
    unit = 1.0 if running is None else float(running.mean())
    cut_here = layer.step is not None and layer.step.kept_after < layer.step.kept_before
    return LayerTrace(
        layer=layer.layer,
        n_patches=len(ids),
        cls_attention=_against_mean(layer.cls_row[0].mean(axis=0)[1:], at),
        similarity=_against_mean(layer.similarity[0, 1:], at),
        value_norm=_against_mean(layer.value_norm[0, 1:], at),
        score=np.nan if layer.score is None else _against_mean(layer.score[0], at),
        running_score=np.nan if running is None else float(running[at]) / unit,
        rank=None if running is None else 1 + int((running > running[at]).sum() + (running[:at] == running[at]).sum()),
        kept=layer.step.kept_after if layer.step is not None and cut_here else None,
        cutoff=np.nan if layer.cutoff is None else float(layer.cutoff[0]) / unit,
        margin=np.nan if layer.margin is None else float(layer.margin[0, at]) / unit,
        clamped=layer.step is not None and layer.step.clamped,
        pruned=layer.layer == pruned_at,
    )


def _against_mean(values: np.ndarray, at: int) -> float:
    return float(values[at] / values.mean())
