"""Is the CLS row a good proxy for what the whole layer attends to? And which patches are sinks that fool attention?

The CLS row of every layer and head is ranked against three other readings of the same attention; a low correlation says
that a criterion built on the CLS row keeps other patches than one built on that reading would.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from flowcut.records.vision import FlowRecord, LayerFlow
from flowcut_lens.analysis.agreement import row_spearman
from flowcut_lens.analysis.views import one_image

RESIDUAL = 0.5
"""Attention rollout's share of the residual stream (Abnar and Zuidema 2020, section 3): 0.5 A + 0.5 I."""

OUTLIER = 5.0
"""A patch is a sink where its norm is so many robust standard deviations above the median."""

MAD_TO_SIGMA = 1.4826
"""Of a normal distribution, the standard deviation over the median absolute deviation."""


@dataclass(frozen=True, eq=False)
class HeadCorrelation:
    """Spearman's correlation of the CLS row with another reading, over the kept patches; L layers, H heads."""

    per_head: np.ndarray
    """float64 [L, H], each head's own CLS row; NaN: not recorded, or a constant row."""
    pooled: np.ndarray
    """float64 [L], the head-mean CLS row."""


@dataclass(frozen=True, eq=False)
class ClsProxy:
    """The CLS row against three other readings of the attention of one picture."""

    layers: np.ndarray
    """int64 [L]."""
    column_mean: HeadCorrelation
    """With the attention that a patch receives from all queries of the same head (pooled: head mean)."""
    value_weighted: HeadCorrelation
    """With the row times the patch's value norm (L1, head mean): what can be handed on, not only the attention
    (after Kobayashi et al. 2020)."""
    last_read_layer: int
    """The deepest layer whose output the language model reads."""
    rollout: HeadCorrelation | None
    """With CLS's row of attention rollout from the patches' embeddings up to this layer, one for all heads; None: the
    record holds no attention matrices (record with matrices=True)."""


def cls_proxy(record: FlowRecord, batch: int = 0) -> ClsProxy:
    """How the CLS row of every layer and head ranks the kept patches beside three other readings.

    Raises:
        ValueError: a record without layers.
    """
    image = one_image(record, batch)
    rows = [layer.cls_row[0, :, 1:].astype(np.float64) for layer in image.layers]
    norms = [layer.value_norm[0, 1:].astype(np.float64) for layer in image.layers]
    received = [layer.received_mass[0, 1:] for layer in image.layers]
    flowed = rollout(image)
    return ClsProxy(
        layers=np.array([layer.layer for layer in image.layers]),
        column_mean=HeadCorrelation(
            np.array([_with_received(layer) for layer in image.layers]),
            np.array([row_spearman(row.mean(axis=0), mass) for row, mass in zip(rows, received, strict=True)]),
        ),
        value_weighted=_correlation(rows, [row * norm for row, norm in zip(rows, norms, strict=True)]),
        last_read_layer=image.last_read_layer,
        rollout=None if flowed is None else _correlation(rows, [row[None] for row in flowed]),
    )  # fmt: skip


def _correlation(rows: list[np.ndarray], others: list[np.ndarray]) -> HeadCorrelation:
    """Each head's row [H, N] with its other reading [H or 1, N], and the head means of both."""
    pairs = list(zip(rows, others, strict=True))
    return HeadCorrelation(
        np.array([row_spearman(row, other) for row, other in pairs]),
        np.array([row_spearman(row.mean(axis=0), other.mean(axis=0)) for row, other in pairs]),
    )


def _with_received(layer: LayerFlow) -> np.ndarray:
    row = layer.cls_row[0, :, 1:]
    if layer.received_by_head is None:
        return np.full(len(row), np.nan)
    return row_spearman(row, layer.received_by_head[0, :, 1:])


def rollout(image: FlowRecord) -> list[np.ndarray] | None:
    """Of every layer, float64 [N], how much of CLS after it comes from each kept patch, by attention rollout.

    Head-mean attention with half of the residual stream, multiplied from this layer down to the patches' embeddings
    (Abnar and Zuidema 2020). A proxy is made anew in every layer, so that its row has no residual.

    Args:
        image: the record of one picture.

    Returns:
        None where the record holds no attention matrices.
    """
    if any(layer.head_mean is None for layer in image.layers):
        return None
    flows = np.zeros((len(image.layers), image.n_patches + 1))  # one row for each layer to start from; CLS first
    for index in range(len(image.layers) - 1, -1, -1):
        layer = image.layers[index]
        assert layer.head_mean is not None
        mixing = layer.head_mean[0].astype(np.float64) * (1 - RESIDUAL)
        mixing[np.diag_indices(len(mixing))] += RESIDUAL
        if image.relay == "proxy":
            mixing[0] = layer.head_mean[0, 0]
        present = np.concatenate([[0], layer.patch_ids[0] + 1])
        flows[index, 0] = 1.0
        # All layers from here up go one layer further down together.
        flows[index:, present] = flows[index:, present] @ mixing
    return [flow[1:][layer.patch_ids[0]] for flow, layer in zip(flows, image.layers, strict=True)]


@dataclass(frozen=True, eq=False)
class Sinks:
    """Patches whose hidden state is far longer than the others' (registers, or attention sinks); L layers."""

    layers: np.ndarray
    """int64 [L]."""
    norm: np.ndarray
    """float64 [L, N0], L2 norm of each patch at the layer's input; NaN where it was pruned before."""
    cls_norm: np.ndarray
    """float64 [L], that of CLS (or of its proxy)."""
    threshold: np.ndarray
    """float64 [L], median + k * 1.4826 * MAD of the norms of the kept patches."""
    outliers: float
    """k."""
    marked: np.ndarray
    """bool [L, N0], the patches above the threshold."""
    cls_share: np.ndarray
    """float64 [L], share of the head-mean CLS row (over patches alone) that they get."""
    received_share: np.ndarray
    """float64 [L], share of what all patches together receive that they get."""
    last_read_layer: int
    """The deepest layer whose output the language model reads."""

    @property
    def count(self) -> np.ndarray:
        """int64 [L], sinks in each layer."""
        return np.asarray(self.marked.sum(axis=1))


def sinks(record: FlowRecord, outliers: float = OUTLIER, batch: int = 0) -> Sinks:
    """Mark, layer by layer, the patches whose hidden-state norm is an outlier among the kept patches.

    The measure is robust: median and median absolute deviation of the patches' norms, so that the sinks themselves do
    not move the threshold. Where all norms are nearly equal a small difference is an outlier too: compare the norms.

    Raises:
        ValueError: a record without layers.
    """
    image = one_image(record, batch)
    norm, row, received = (np.full((len(image.layers), image.n_patches), np.nan) for _ in range(3))
    for index, layer in enumerate(image.layers):
        present = layer.patch_ids[0]
        norm[index, present] = layer.hidden_norm[0, 1:]
        row[index, present] = layer.cls_row[0, :, 1:].mean(axis=0)
        received[index, present] = layer.received_mass[0, 1:]
    median = np.nanmedian(norm, axis=1, keepdims=True)
    spread = MAD_TO_SIGMA * np.nanmedian(np.abs(norm - median), axis=1, keepdims=True)
    threshold = median + outliers * spread
    marked = norm > threshold  # NaN is above nothing
    cls_norm = np.array([float(layer.hidden_norm[0, 0]) for layer in image.layers])
    layers = np.array([layer.layer for layer in image.layers])
    on_row, of_all = (np.nansum(mass * marked, axis=1) / np.nansum(mass, axis=1) for mass in (row, received))
    return Sinks(layers, norm, cls_norm, threshold[:, 0], outliers, marked, on_row, of_all, image.last_read_layer)
