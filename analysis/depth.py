"""What changes with depth in one picture: where patches read from, how far and how evenly, and what they carry.

The paper's F2 (flow-in and flow-out), F3 (distance, entropy), F6 (information density), F7 (value norms) and F9-10
(streamlines), of a pruned or an unpruned run alike: layers after a cut speak of the patches that were still there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from flowcut.records.vision import CLS_ID, PADDING_ID, FlowRecord, LayerFlow
from flowcut_lens.analysis.relay import Direction
from flowcut_lens.analysis.views import one_image, up_to_read

Partner = Literal["cls", "self", "patch", "none"]
PARTNERS: tuple[Partner, ...] = ("cls", "self", "patch", "none")
"""What a main source or destination can be: CLS, the patch itself, another patch, or nobody."""

ValueNorm = Literal["pooled", "per head"]
"""L1 norm of the head-averaged value, by which FlowCut weighs; or the mean over heads of each head's own L1 norm."""
VALUE_NORMS: tuple[ValueNorm, ValueNorm] = ("pooled", "per head")

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclass(frozen=True, eq=False)
class FlowShares:
    """Where patches read from, and who reads them, by layer (the paper's F2); L layers."""

    layers: np.ndarray
    """int64 [L]."""
    source: dict[Partner, np.ndarray]
    """float64 [L], share of the kept patches whose main source (flow-in, argmax_j A[i, j]) is of this kind."""
    destination: dict[Partner, np.ndarray]
    """float64 [L], share whose main destination (flow-out, argmax_i A[i, j]) is of this kind."""
    hubs: np.ndarray
    """int64 [L], different patches that are the main source of some other patch."""
    largest_hub: np.ndarray
    """int64 [L], the token that is the main source of the most patches, each patch itself left out: a patch id, -1 CLS,
    -2 none. Where several are, CLS if it is one of them."""
    n_patches: np.ndarray
    """int64 [L], N."""
    last_read_layer: int
    """The deepest layer whose output the language model reads."""


def flow_shares(record: FlowRecord, batch: int = 0) -> FlowShares:
    """Flow-in and flow-out of the patches of one picture, by layer (head-mean attention).

    Raises:
        ValueError: a record without layers.
    """
    image = one_image(record, batch)
    layers = image.layers
    sources = [_partners(layer, layer.top_source_ids[0, 1:, 0]) for layer in layers]
    destinations = [_partners(layer, layer.top_destination_id[0, 1:]) for layer in layers]
    return FlowShares(
        np.array([layer.layer for layer in layers]),
        {kind: np.array([found[kind] for found in sources]) for kind in PARTNERS},
        {kind: np.array([found[kind] for found in destinations]) for kind in PARTNERS},
        np.array([len(np.unique(found[found >= 0])) for found in map(_sources, layers)]),
        np.array([_largest_hub(_sources(layer)) for layer in layers]),
        np.array([layer.patch_ids.shape[1] for layer in layers]),
        image.last_read_layer,
    )


def _partners(layer: LayerFlow, partner_ids: np.ndarray) -> dict[Partner, float]:
    to_cls, to_none = partner_ids == CLS_ID, partner_ids == PADDING_ID
    to_self = partner_ids == layer.patch_ids[0]
    kinds = (to_cls, to_self, ~(to_cls | to_none | to_self), to_none)
    return {kind: float(found.mean()) for kind, found in zip(PARTNERS, kinds, strict=True)}


def _sources(layer: LayerFlow) -> np.ndarray:
    """int64, the main sources of the patches of a layer that read another token most."""
    sources, own = layer.top_source_ids[0, 1:, 0], layer.patch_ids[0]
    found: np.ndarray = sources[(sources != own) & (sources != PADDING_ID)]
    return found


def _largest_hub(sources: np.ndarray) -> int:
    ids, counts = np.unique(sources, return_counts=True)  # ascending: CLS, -1, comes first
    return int(ids[counts.argmax()]) if len(ids) else PADDING_ID


@dataclass(frozen=True, eq=False)
class Spread:
    """How far and how evenly a layer attends (the paper's F3); L layers, H heads."""

    layers: np.ndarray
    """int64 [L]."""
    distance: np.ndarray
    """float64 [L, H], mean distance from a patch to what it attends to, in patches; CLS left out."""
    entropy_ratio: np.ndarray
    """float64 [L, H], entropy of a query's attention over its largest possible value, mean over queries: 1 is even."""
    n_patches: np.ndarray
    """int64 [L]."""
    last_read_layer: int
    """The deepest layer whose output the language model reads."""


def spread(record: FlowRecord, batch: int = 0) -> Spread:
    """Attention distance and entropy of all queries of one picture, by layer and head.

    The largest possible entropy is ln(N+1), with a proxy ln N; where a layer attends within windows none reaches it.

    Raises:
        ValueError: a record without layers.
    """
    image = one_image(record, batch)
    n_patches = np.array([layer.patch_ids.shape[1] for layer in image.layers])
    most = np.log(n_patches + (image.relay == "cls"))[:, None]
    entropy = np.array([layer.row_entropy[0] for layer in image.layers], np.float64)
    return Spread(
        np.array([layer.layer for layer in image.layers]),
        np.array([layer.attention_distance[0] for layer in image.layers], np.float64),
        np.divide(entropy, most, out=np.zeros_like(entropy), where=most > 0),
        n_patches,
        image.last_read_layer,
    )


@dataclass(frozen=True, eq=False)
class Density:
    """How much each kept patch carries on average (the paper's F6, as we read it); L layers.

    The paper calls the L1 norm of the value vector a token's information density. It says what could be handed on, not
    that anyone reads it; `delivered` weighs it by the attention that the patch receives.
    """

    layers: np.ndarray
    """int64 [L]."""
    value: np.ndarray
    """float64 [L], mean value norm of the kept patches."""
    delivered: np.ndarray
    """float64 [L], mean of received mass times value norm."""
    value_norms: tuple[np.ndarray, ...]
    """L times float64 [N], the value norm of each kept patch."""
    patch_ids: tuple[np.ndarray, ...]
    """L times int64 [N], these patches."""
    quantiles: np.ndarray
    """float64 [L, 5], the 5th, 25th, 50th, 75th and 95th percentile of the value norms (the paper's F7)."""
    n_patches: np.ndarray
    """int64 [L]."""
    last_read_layer: int
    """The deepest layer whose output the language model reads."""
    norm: ValueNorm
    """Which value norm it is."""


def density(record: FlowRecord, batch: int = 0, norm: ValueNorm = "pooled") -> Density:
    """Information density of one picture, by layer.

    Raises:
        ValueError: a record without layers, or without the norms that are asked for.
    """
    image = one_image(record, batch)
    layers = image.layers
    norms = tuple(_value_norm(layer, norm)[1:].astype(np.float64) for layer in layers)
    received = [layer.received_mass[0, 1:].astype(np.float64) for layer in layers]
    return Density(
        np.array([layer.layer for layer in layers]),
        np.array([one.mean() for one in norms]),
        np.array([(mass * one).mean() for mass, one in zip(received, norms, strict=True)]),
        norms,
        tuple(layer.patch_ids[0] for layer in layers),
        np.array([np.quantile(one, QUANTILES) for one in norms]),
        np.array([len(one) for one in norms]),
        image.last_read_layer,
        norm,
    )


def _value_norm(layer: LayerFlow, norm: ValueNorm) -> np.ndarray:
    """float32 [N+1]."""
    norms = layer.value_norm if norm == "pooled" else layer.head_value_norm
    if norms is None:
        raise ValueError("This run was recorded without the norms of single heads: ask again to have them.")
    found: np.ndarray = norms[0]
    return found


def has_head_norms(record: FlowRecord) -> bool:
    """Whether a record knows the value norms of single heads; older ones do not."""
    return all(layer.head_value_norm is not None for layer in record.layers)


@dataclass(frozen=True, eq=False)
class Streamlines:
    """Chains of main sources (or destinations) through the layers, one for each of S patches (the paper's F9-10)."""

    direction: Direction
    """`inflow`: from patches at the end back along main sources; `outflow`: from the start along main destinations."""
    layers: np.ndarray
    """int64 [L]; state 0 is before the first of them, state L after the last."""
    ids: np.ndarray
    """int64 [S, L+1], the token that the chain passes in each state: a patch id, -1 CLS, -2 the chain has ended."""

    @property
    def through_cls(self) -> np.ndarray:
        """bool [S], whether the chain passes CLS."""
        return np.asarray((self.ids == CLS_ID).any(axis=1))


def streamlines(
    record: FlowRecord,
    patches: Sequence[int] | np.ndarray | None = None,
    direction: Direction = "inflow",
    batch: int = 0,
) -> Streamlines:
    """Follow each patch's strongest source back through all layers, or its strongest reader onwards.

    Each step takes the one strongest partner of head-mean attention, which may hold little of it. The last layer is the
    one whose output the language model reads.

    Args:
        record: of a run, pruned or not.
        patches: where to begin; None: inflow, all that are kept for the last layer, outflow, all of the grid.
        direction: as in `Streamlines`.
        batch: which picture of the record.

    Raises:
        ValueError: a record without layers, or a patch that is pruned where its chain begins.
    """  # fmt: skip
    image = up_to_read(one_image(record, batch))
    inflow = direction == "inflow"
    order = range(len(image.layers) - 1, -1, -1) if inflow else range(len(image.layers))
    begin = image.layers[order[0]].patch_ids[0]
    chosen = begin if patches is None else np.asarray(patches, np.int64)
    missing = np.setdiff1d(chosen, begin)
    if len(missing):
        raise ValueError(f"Patch {missing[0]} is pruned before layer {image.layers[order[0]].layer}: choose others.")
    ids = np.empty((len(chosen), len(image.layers) + 1), np.int64)
    here = chosen
    ids[:, -1 if inflow else 0] = here
    for index in order:
        here = _step(image.layers[index], image.n_patches, here, inflow)
        ids[:, index if inflow else index + 1] = here
    return Streamlines(direction, np.array([layer.layer for layer in image.layers]), ids)


def _step(layer: LayerFlow, n_patches: int, here: np.ndarray, inflow: bool) -> np.ndarray:
    """int64 [S], the partner of each token in a layer; a token that is not there has none."""
    partner = np.full(n_patches + 2, PADDING_ID)  # by id, from -2
    found = layer.top_source_ids[0, :, 0] if inflow else layer.top_destination_id[0]
    partner[np.concatenate([[CLS_ID], layer.patch_ids[0]]) + 2] = found
    partners: np.ndarray = partner[here + 2]
    return partners
