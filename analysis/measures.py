"""How concentrated the CLS row is, layer by layer and head by head, and how many patches are pruned where.

The CLS row of one head is the attention that CLS pays to every token; CLS itself is left out here and the rest is
divided by its sum, so that p_i is the share of the relay's intake that comes from patch i. Four numbers describe p.
All functions work on whole arrays: the last axis is the patches, any axes before it are layers and heads.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from flowcut.records.vision import FlowRecord
from flowcut_lens.analysis.views import images_of

TOP_SHARE = 0.1


def entropy_ratio(shares: np.ndarray, n_patches: np.ndarray) -> np.ndarray:
    """H(p) / ln N in [0, 1]: 1 is even attention, 0 a single patch. N = 1 has no spread and gives 0.

    Args:
        shares: [..., N], each row sums to 1; entries of pruned patches are 0.
        n_patches: N, kept patches, broadcast against the axes before the last.
    """
    ratio: np.ndarray = np.divide(
        _entropy(shares), np.log(n_patches), out=np.zeros(shares.shape[:-1]), where=n_patches > 1
    )
    return ratio


def effective_tokens(shares: np.ndarray, n_patches: np.ndarray) -> np.ndarray:
    """exp(H(p)) in [1, N]: the number of patches that an even attention of the same entropy would cover."""
    covered: np.ndarray = np.exp(_entropy(shares))
    return covered


def gini(shares: np.ndarray, n_patches: np.ndarray) -> np.ndarray:
    """Gini coefficient in [0, 1 - 1/N]: 0 is even attention; sum_i (2 i - N - 1) p_(i) / N, p_(1) the smallest."""
    ascending = np.sort(shares, axis=-1)
    # Entries of pruned patches are zeros and sort to the front: ranks are counted back from the end.
    rank = np.arange(1, shares.shape[-1] + 1) - (shares.shape[-1] - n_patches[..., None])
    coefficient: np.ndarray = ((2 * rank - n_patches[..., None] - 1) * ascending).sum(-1) / n_patches
    return coefficient


def top_mass(shares: np.ndarray, n_patches: np.ndarray) -> np.ndarray:
    """Share of the attention that falls on the strongest tenth of the kept patches, rounded up."""
    strongest_first = -np.sort(-shares, axis=-1)
    count = np.ceil(TOP_SHARE * n_patches - 1e-9)  # 0.1 * 30 is a little more than 3 in floating point
    counted = np.arange(shares.shape[-1]) < count[..., None]
    mass: np.ndarray = (strongest_first * counted).sum(-1)
    return mass


def _entropy(shares: np.ndarray) -> np.ndarray:
    """-sum p ln p in nats, with 0 ln 0 = 0."""
    logs = np.log(shares, out=np.zeros_like(shares), where=shares > 0)
    entropy: np.ndarray = -(shares * logs).sum(-1)
    return entropy


@dataclass(frozen=True)
class Metric:
    """One way to say how concentrated a row is."""

    label: str
    unit: str
    """`share` (0 to 1), or `patches`."""
    reads: str
    """How to read it, one line."""
    function: Callable[[np.ndarray, np.ndarray], np.ndarray]
    logprob_drops: bool
    """Whether a lower value means more concentrated."""


METRICS: dict[str, Metric] = {
    "entropy_ratio": Metric(
        "Entropy", "share",
        "Entropy of the CLS row over ln N: 1 = even over all kept patches, 0 = all on one patch.", entropy_ratio, True,
    ),
    "gini": Metric(
        "Gini", "share", "Gini coefficient of the CLS row: 0 = even over all kept patches, towards 1 = on very few.",
        gini, False,
    ),
    "top_mass": Metric(
        "Top-10% mass", "share",
        "Share of CLS's attention that falls on its strongest tenth of the kept patches: 0.1 = even, 1 = all of it.",
        top_mass, False,
    ),
    "effective_tokens": Metric(
        "Effective tokens", "patches",
        "exp(entropy): how many evenly attended patches have this entropy. Decreases when patches are pruned, too.",
        effective_tokens, True,
    ),
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Curve:
    """One metric through the layers that ran, L of them, with H heads."""

    per_head: np.ndarray
    """float64 [L, H]."""
    pooled: np.ndarray
    """float64 [L], of the head-averaged CLS row; its entropy is the E that FlowCut's schedule reads."""

    @property
    def head_mean(self) -> np.ndarray:
        """float64 [L], mean of the heads' own values."""
        mean: np.ndarray = self.per_head.mean(axis=1)
        return mean

    @property
    def band(self) -> tuple[np.ndarray, np.ndarray]:
        """Lowest and highest head, float64 [L] each."""
        return self.per_head.min(axis=1), self.per_head.max(axis=1)


@dataclass(frozen=True, eq=False)
class Concentration:
    """How concentrated the CLS row of one picture is, through the layers."""

    layers: np.ndarray
    """int64 [L], vision layers from 0."""
    n_patches: np.ndarray
    """int64 [L], N: kept patches, at each layer's input; of several rows, all of theirs."""
    removed: np.ndarray
    """int64 [L], patches pruned after each layer."""
    clamped: np.ndarray
    """bool [L], whether the count after this layer was set to the target rather than requested by entropy."""
    last_read_layer: int
    """The deepest layer whose output the language model reads; those behind it reach no answer."""
    entropy_ratio: Curve
    gini: Curve
    top_mass: Curve
    effective_tokens: Curve

    def curve(self, metric: str) -> Curve:
        """The curve of one of `METRICS`, by its name."""
        found: Curve = getattr(self, metric)
        return found


def concentration(record: FlowRecord, batch: int | None = 0) -> Concentration:
    """Measure every layer and head of one row of a record; with batch None, the mean over all rows (tiles, frames).

    Raises:
        ValueError: the record holds no layers (it was made by a cut without recording).
    """
    rows = [_concentration_of(image) for image in images_of(record, batch)]
    return rows[0] if len(rows) == 1 else _mean_concentration(rows)


def _mean_concentration(rows: list[Concentration]) -> Concentration:
    """Each row is measured by itself; what its heads show is then averaged, pruned patches are counted together."""
    curves = {
        name: Curve(
            np.mean([row.curve(name).per_head for row in rows], axis=0),
            np.mean([row.curve(name).pooled for row in rows], axis=0),
        )
        for name in METRICS
    }
    n_patches = np.sum([row.n_patches for row in rows], axis=0)
    removed = np.sum([row.removed for row in rows], axis=0)
    clamped = np.any([row.clamped for row in rows], axis=0)
    return Concentration(rows[0].layers, n_patches, removed, clamped, rows[0].last_read_layer, **curves)


def _concentration_of(image: FlowRecord) -> Concentration:
    n_patches = np.array([layer.patch_ids.shape[1] for layer in image.layers])
    rows = _padded_rows(image, int(n_patches.max()))
    heads, pooled = _shares(rows), _shares(rows.mean(axis=1))
    curves = {
        name: Curve(
            metric.function(heads, np.broadcast_to(n_patches[:, None], heads.shape[:2])),
            metric.function(pooled, n_patches),
        )
        for name, metric in METRICS.items()
    }
    removed, clamped = removals(image)
    layers = np.array([layer.layer for layer in image.layers])
    return Concentration(layers, n_patches, removed, clamped, image.last_read_layer, **curves)


def removals(image: FlowRecord) -> tuple[np.ndarray, np.ndarray]:
    """Patches pruned after each recorded layer, int64 [L], and whether that count was clamped, bool [L]."""
    layers = np.array([layer.layer for layer in image.layers])
    removed = (image.pruned_at_layer[0][None, :] == layers[:, None]).sum(axis=1)
    clamped_after = {step.layer for step in image.steps if step.clamped}
    return removed, np.isin(layers, list(clamped_after))


def _padded_rows(image: FlowRecord, width: int) -> np.ndarray:
    """float64 [L, H, width], the CLS row over patches, zeros where a layer has fewer patches."""
    rows = np.zeros((len(image.layers), image.n_heads, width))
    for index, layer in enumerate(image.layers):
        row = layer.cls_row[0, :, 1:]
        rows[index, :, : row.shape[1]] = row
    return rows


def _shares(rows: np.ndarray) -> np.ndarray:
    """Rows divided by their sums; NaN where CLS attends to nothing but itself."""
    total = rows.sum(-1, keepdims=True)
    shares: np.ndarray = np.divide(rows, total, out=np.full_like(rows, np.nan), where=total > 0)
    return shares


def kendall_tau(x: np.ndarray, y: np.ndarray) -> float:
    """Kendall's tau-a: pairs in the same order minus pairs in opposite order, over all pairs; 0 for fewer than two."""
    if len(x) < 2:
        return 0.0
    concordance = np.sign(x[:, None] - x[None, :]) * np.sign(y[:, None] - y[None, :])
    return float(np.triu(concordance, 1).sum() / (len(x) * (len(x) - 1) / 2))
