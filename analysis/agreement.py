"""How far criteria agree with each other, and layers with each other: kept sets (IoU), rankings (Spearman, Kendall).

Also the contradiction map of the paper's F4: which patches one layer alone would keep and another would prune, and what
the accumulated score does with them. Rankings are rows of an array [M, N] over the patches of the grid, higher = kept
longer; NaN where a patch is not ranked (pruned before), and then a pair of rows is compared over the patches that both
rank.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal, get_args

import numpy as np
from scipy.stats import rankdata

from flowcut.records.vision import FlowRecord, LayerFlow
from flowcut_lens.analysis.depth import VALUE_NORMS, density
from flowcut_lens.analysis.findings import Claim, layer_range
from flowcut_lens.analysis.views import one_image

Ranked = Literal["score", "cls", "similarity", "value_norm"]
"""By what a layer ranks the patches: FlowCut's S of this layer alone, or one of its three factors."""
RANKED: tuple[Ranked, ...] = get_args(Ranked)
CRITERIA: tuple[Ranked, ...] = ("cls", "similarity", "value_norm")
"""The three factors."""
CONTRADICTS_BELOW = 0.5
"""Share of their kept patches below which two layers, or two criteria, are said to contradict each other."""


def kept_mask(kept: Sequence[np.ndarray], n_patches: int) -> np.ndarray:
    """bool [M, N] of M arrays of kept patch ids."""
    mask = np.zeros((len(kept), n_patches), bool)
    for row, ids in zip(mask, kept, strict=True):
        row[ids] = True
    return mask


def iou(kept: np.ndarray) -> np.ndarray:
    """float64 [M, M], patches that both sets hold over patches that either holds; NaN for two empty sets.

    Args:
        kept: bool [M, N], as from `kept_mask`.
    """
    counts = kept.astype(np.float64)
    both = counts @ counts.T
    size = counts.sum(axis=1)
    either = size[:, None] + size - both
    overlap: np.ndarray = np.divide(both, either, out=np.full_like(both, np.nan), where=either > 0)
    return overlap


def spearman(rankings: np.ndarray) -> np.ndarray:
    """float64 [M, M], Spearman's rank correlation of every pair of rows [M, N]; ties share their mean rank.

    NaN where one of the two rankings is constant, or fewer than two patches are ranked by both.
    """
    return _correlation(rankings, "spearman")


def kendall(rankings: np.ndarray) -> np.ndarray:
    """float64 [M, M], Kendall's tau-b of every pair of rows [M, N]; NaN as for `spearman`."""
    return _correlation(rankings, "kendall")


def _correlation(rankings: np.ndarray, method: Literal["spearman", "kendall"]) -> np.ndarray:
    """float64 [M, M], of every pair of rows over the patches that both rank."""
    import pandas  # here, because it takes 0.4 s to import and few that import this module need it

    columns = pandas.DataFrame(np.asarray(rankings, np.float64).T)
    table: np.ndarray = columns.corr(method, min_periods=2).to_numpy(copy=True)
    table[columns.nunique() < 2] = np.nan  # pandas lets a constant ranking agree with itself
    return table


def row_spearman(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """float64 [...], Spearman's correlation of each row of x [..., N] with that row of y; NaN where one is constant."""
    ranks = [rankdata(rows, axis=-1) for rows in np.broadcast_arrays(x, y)]
    a, b = (rank - rank.mean(axis=-1, keepdims=True) for rank in ranks)
    spread = np.sqrt((a * a).sum(-1) * (b * b).sum(-1))
    correlation: np.ndarray = np.divide((a * b).sum(-1), spread, out=np.full(spread.shape, np.nan), where=spread > 0)
    return correlation


def layer_rankings(record: FlowRecord, by: Ranked = "score", batch: int = 0) -> np.ndarray:
    """float64 [L, N], what each layer alone ranks the patches by; NaN for patches pruned before.

    `score` is the S that the run scored, by its own variant; where it scored nothing (an unpruned run, layers after the
    last cut) it is the official S, computed from the record (ALGORITHM: S = (a^ + s^) w). `cls`, `similarity`,
    `value_norm`: a^, s^ or w alone.

    Raises:
        ValueError: no such ranking, or a record without layers.
    """
    if by not in RANKED:
        raise ValueError(f"Layers rank patches by {', '.join(map(repr, RANKED))}, not by {by!r}.")
    image = one_image(record, batch)
    rankings = np.full((len(image.layers), image.n_patches), np.nan)
    for row, layer in zip(rankings, image.layers, strict=True):
        row[layer.patch_ids[0]] = _READINGS[by](layer)
    return rankings


def layer_score(layer: LayerFlow) -> np.ndarray:
    """float64 [N], S of one layer of one picture alone: as scored, else by the official variant from the record."""
    if layer.score is not None:
        return np.asarray(layer.score[0], dtype=np.float64)
    return np.asarray((_attention(layer) + _similarity(layer)) * _value_norm(layer))


def _attention(layer: LayerFlow) -> np.ndarray:
    return _shares(layer.cls_row[0].mean(axis=0))


def _similarity(layer: LayerFlow) -> np.ndarray:
    return _shares(layer.similarity[0])


def _value_norm(layer: LayerFlow) -> np.ndarray:
    return np.asarray(layer.value_norm[0, 1:], dtype=np.float64)


def _shares(row: np.ndarray) -> np.ndarray:
    """A row over CLS and patches with CLS dropped, summing to 1."""
    patches = row[1:].astype(np.float64)
    shares: np.ndarray = patches / patches.sum()
    return shares


_READINGS: dict[Ranked, Callable[[LayerFlow], np.ndarray]] = {
    "score": layer_score, "cls": _attention, "similarity": _similarity, "value_norm": _value_norm,
}  # fmt: skip


def scored_rankings(record: FlowRecord, by: Ranked = "score", batch: int = 0) -> np.ndarray:
    """float64 [L, N], `layer_rankings` of an unpruned run as the cut sees them: of the layers before the feature layer,
    patches that become one token with the mean of them all.

    Raises:
        ValueError: the run was pruned, or has no layers; patches are merged, but the record does not know their grid.
    """
    image = one_image(record, batch)
    if (image.pruned_at_layer >= 0).any():
        raise ValueError("This run was pruned: layers after a cut cannot say what they would keep. Give the full run.")
    return _grouped(layer_rankings(image, by)[: len(scored_layers(image))], image)


def scored_layers(record: FlowRecord) -> np.ndarray:
    """int64 [L], the vision layers that FlowCut scores: those before the feature layer."""
    return np.array([layer.layer for layer in record.layers if layer.layer < record.feature_layer])


def accumulated(rankings: np.ndarray) -> np.ndarray:
    """float64 [L, N], the running score after each layer: C = S in the first, then 0.5 C + 0.5 S."""
    running = rankings.copy()
    for layer in range(1, len(rankings)):
        running[layer] = 0.5 * running[layer - 1] + 0.5 * rankings[layer]
    return running


def patches_of_budget(image: FlowRecord, tokens: int) -> int:
    """How many patches a budget in tokens of the language model keeps.

    Raises:
        ValueError: the budget is out of range.
    """
    most = image.n_patches // image.patches_per_token
    if not 1 <= tokens <= most:
        raise ValueError(f"The budget is {tokens!r}: it must be 1 to {most}.")
    return tokens * image.patches_per_token


@dataclass(frozen=True, eq=False)
class Contradiction:
    """Where single layers contradict each other about one picture, L layers over N patches (the paper's F4)."""

    layers: np.ndarray
    """int64 [L], the vision layers that FlowCut scores: those before the feature layer."""
    tokens: int
    """T, the budget in tokens of the language model."""
    keeps: np.ndarray
    """bool [L, N], the patches that a layer alone would keep: the T highest of its own ranking."""
    running: np.ndarray
    """float64 [N], the accumulated score after the last of these layers, with no patch pruned before."""
    running_keeps: np.ndarray
    """bool [N], the T highest by it."""

    @property
    def votes(self) -> np.ndarray:
        """float64 [N], share of layers that would keep the patch."""
        return np.asarray(self.keeps.mean(axis=0))

    @property
    def contradiction(self) -> np.ndarray:
        """float64 [N], share of layers against the majority of layers: 0 all agree, 0.5 as divided as can be."""
        against: np.ndarray = np.minimum(self.votes, 1 - self.votes)
        return against

    @property
    def overruled(self) -> np.ndarray:
        """float64 [N], share of layers that contradict the accumulated score."""
        return np.where(self.running_keeps, 1 - self.votes, self.votes)


def contradiction(record: FlowRecord, tokens: int, by: Ranked = "score", batch: int = 0) -> Contradiction:
    """Which patches each layer of an unpruned run alone would keep at a budget, and which the accumulated score keeps.

    The accumulated score is that of `accumulated` (of `cls`: with a^ in place of S, and so on). FlowCut itself cuts
    on the way, and the layers after a cut see fewer patches: its own mask may differ from `running_keeps`.

    Args:
        record: of an unpruned run.
        tokens: the budget, in tokens of the language model.
        by: what a layer ranks by, as in `layer_rankings`.
        batch: which picture of the record.

    Raises:
        ValueError: the run was pruned, the budget is out of range, or the record has no layers.
    """
    image = one_image(record, batch)
    rankings = scored_rankings(image, by)
    count = patches_of_budget(image, tokens)
    running = accumulated(rankings)[-1]
    keeps = highest(rankings, count)
    return Contradiction(scored_layers(image), tokens, keeps, running, highest(running[None], count)[0])


def contradiction_claim(record: FlowRecord, tokens: int, batch: int = 0, what: str = "this picture") -> Claim:
    """Finding 3 (F4): single layers, and single criteria in one layer, would keep different patches.

    Args:
        record: of a run with all tokens.
        tokens: the budget, in tokens of the language model.
        batch: which picture of the record.
        what: whose patches they are.

    Raises:
        ValueError: as for `contradiction`.
    """
    image = one_image(record, batch)
    by_score = contradiction(image, tokens)
    count = patches_of_budget(image, tokens)
    # A proxy has no value of its own to be similar to.
    names = [name for name in CRITERIA if image.relay == "cls" or name != "similarity"]
    criteria = [contradiction(image, tokens, name).keeps for name in names]
    layers, between = _shared(list(by_score.keeps), count), _shared(criteria, count)
    low = layers < CONTRADICTS_BELOW, between < CONTRADICTS_BELOW
    return Claim(
        "F4",
        "What one layer or one criterion ranks high, another ranks low: a single one misleads (finding 3).",
        f"Unpruned, {what}, {layer_range(by_score.layers)} (those that are scored), {tokens} tokens: two layers share "
        f"{layers:.0%} of the patches that each would keep by its score, two of {len(names)} criteria in one layer "
        f"{between:.0%} (means over pairs; by chance {count / image.n_patches:.0%}).",
        f"Holds: both below {CONTRADICTS_BELOW:.0%}. Half holds: one of them. Does not hold: neither.",
        "holds" if all(low) else "half holds" if any(low) else "does not hold",
    )


def _shared(keeps: Sequence[np.ndarray], count: int) -> float:
    """Mean over pairs of the share of `count` kept patches, bool [..., N], that both keep; 1 where there is no pair."""
    shares = [(one & other).sum(axis=-1).mean() / count for one, other in combinations(keeps, 2)]
    return float(np.mean(shares)) if shares else 1.0


def highest(rankings: np.ndarray, count: int) -> np.ndarray:
    """bool [M, N], the `count` highest of each row; of equal ones the first in reading order, as in the cut itself."""
    strongest_first = np.argsort(-rankings, axis=1, kind="stable")
    return kept_mask(list(strongest_first[:, :count]), rankings.shape[1])


def _grouped(rankings: np.ndarray, image: FlowRecord) -> np.ndarray:
    """Each patch with the mean of the patches that become one token with it, as the cut sees them.

    Raises:
        ValueError: patches are merged, but the record does not know their grid.
    """
    if image.patches_per_token == 1:
        return rankings
    if image.geometry is None:
        raise ValueError("This record merges patches but knows no grid: give a run made by flowcut.ask.")
    rows, cols, side = image.geometry.grid_rows, image.geometry.grid_cols, round(image.patches_per_token**0.5)
    squares = rankings.reshape(-1, rows // side, side, cols // side, side)
    means = squares.mean(axis=(2, 4), keepdims=True)
    return np.broadcast_to(means, squares.shape).reshape(rankings.shape)


def norm_agreement(record: FlowRecord, batch: int = 0) -> np.ndarray:
    """float64 [L], Spearman's correlation over the kept patches of the two value norms, `pooled` and `per head`.

    Raises:
        ValueError: a record without layers, or without the norms of single heads.
    """
    pooled, per_head = (density(record, batch, norm).value_norms for norm in VALUE_NORMS)
    return np.array([row_spearman(one, other) for one, other in zip(pooled, per_head, strict=True)])
