"""Criteria inside the vision encoder: they look once, and cut at the feature layer."""

from __future__ import annotations

import numpy as np

from flowcut.criteria.evidence import Budget, Evidence, highest, needed, unit

ANCHOR_SHARE = 0.1
"""HiPrune's alpha: anchors and their four neighbours take up to this share of the budget."""
DOMINANT_SHARE = 54 / 64
"""VisionZip: 54 dominant and 10 contextual tokens of 64."""
IMPORTANT_SHARE = 0.5
"""VisPruner: share of the budget that goes by CLS attention, in every script of the release."""
CONTEXTUAL = 1.0
"""What VisionZip's contextual targets are ranked by, below all dominant patches."""
PRUNED_AT_ONCE = 8
"""VisPruner: duplicates that go in each round."""


def cls_attention(evidence: Evidence, cut: Budget) -> np.ndarray:
    """float64 [B, N], the attention that CLS pays to each patch at one layer."""
    return needed(evidence.cls_attention)


def cls_attention_x_value(evidence: Evidence, cut: Budget) -> np.ndarray:
    """float64 [B, N], attention of CLS times the L1 norm of the head-mean value: how much CLS receives."""
    received: np.ndarray = needed(evidence.cls_attention) * needed(evidence.value_norm)
    return received


def column_mean(evidence: Evidence, cut: Budget) -> np.ndarray:
    """float64 [B, N], HiPrune: anchors, their four neighbours, then the rest by column mean at the feature layer.

    Anchors are the round(alpha T / 5) patches of highest column mean at a middle layer (alpha = 0.1; layer 9 of 24
    counted from 1, scaled to the encoder's depth). `paper`: neighbours are those on the grid. `official`: as released
    they are counted by index, so that a patch at the right edge has one at the left edge of the next row, and what lies
    above the first row or below the last one is the first or the last patch.
    """
    neighbours = _neighbours_by_index if cut.variant == "official" else _neighbours
    middle, deep = needed(evidence.middle_mean), needed(evidence.deep_mean)
    assert evidence.grid_cols is not None
    anchors = highest(middle, round(cut.tokens * ANCHOR_SHARE / 5))
    ranking: np.ndarray = deep / deep.max(axis=1, keepdims=True).clip(min=np.finfo(float).tiny)  # at most 1
    for row, own in zip(ranking, anchors, strict=True):
        row[neighbours(own, evidence.n_patches, evidence.grid_cols)] += 2
        row[own] += 4
    return ranking


def _neighbours(anchors: np.ndarray, n: int, cols: int) -> np.ndarray:
    """int64, the patches above, below, left and right of any of these, each once; some may be anchors themselves."""
    row, column = np.divmod(np.arange(n), cols)
    steps = np.abs(row[:, None] - row[anchors]) + np.abs(column[:, None] - column[anchors])
    return np.flatnonzero((steps == 1).any(axis=1))


def _neighbours_by_index(anchors: np.ndarray, n: int, cols: int) -> np.ndarray:
    """int64, the patches one row up and down and one to either side by index, brought into the range 0 to n-1."""
    steps = np.array([-cols, cols, -1, 1])
    return np.unique((anchors[:, None] + steps).clip(0, n - 1))


def visionzip(evidence: Evidence, cut: Budget) -> np.ndarray:
    """float64 [B, N]: dominant patches by CLS attention above all (54/64 of T), then the contextual targets (10/64).

    Where CLS goes on too, it is one of the dominant tokens, and T counts it.

    The targets lie evenly strided among the patches that are not dominant, in reading order. The rest tie at the
    lowest: they are not dropped but join a target (`visionzip_joins`).
    """
    attention = needed(evidence.cls_attention)
    ranking = np.zeros_like(attention)
    cls = 1 if evidence.with_cls else 0
    dominant = highest(attention, dominant_count(cut.tokens + cls) - cls)
    for row, own, shares in zip(ranking, dominant, attention, strict=True):
        others = np.setdiff1d(np.arange(evidence.n_patches), own)
        count = cut.tokens - len(own)
        if count:
            row[others[:: len(others) // count][:count]] = CONTEXTUAL
        row[own] = 2 + shares[own]
    return ranking


def dominant_count(tokens: int) -> int:
    """VisionZip's dominant tokens of a budget of T; the rest of it is contextual."""
    return round(tokens * DOMINANT_SHARE)


def is_contextual(ranking: np.ndarray) -> np.ndarray:
    """bool [B, N], VisionZip's contextual targets; as released they come behind the dominant tokens."""
    found: np.ndarray = ranking == CONTEXTUAL
    return found


def visionzip_joins(evidence: Evidence, cut: Budget, ranking: np.ndarray) -> np.ndarray:
    """int64 [B, N], the contextual target that each patch joins by highest cosine of head-mean keys; -1: none."""
    joins = np.full(ranking.shape, -1)
    for row, ranks, keys in zip(joins, ranking, unit(needed(evidence.keys)), strict=True):
        targets, others = np.flatnonzero(ranks == CONTEXTUAL), np.flatnonzero(ranks == 0)
        if len(targets):
            row[others] = targets[(keys[others] @ keys[targets].T).argmax(axis=1)]
    return joins


def vispruner(evidence: Evidence, cut: Budget) -> np.ndarray:
    """float64 [B, N]: the important by CLS attention (a share of T), the diverse, then the duplicates, last out first.

    From the patches that are not important, the list is split into evens and odds, and the 8 evens that are most like
    any odd go; again and again until enough are left. As released, the list begins in the order of attention, the evens
    that stay go on by falling likeness, and the odds follow them.
    """
    attention, features = needed(evidence.cls_attention), unit(needed(evidence.features))
    important = int(cut.tokens * cut.setting("important_share"))
    order = np.argsort(-attention, axis=1, kind="stable")
    ranking = np.zeros_like(attention)
    for row, strongest, vectors in zip(ranking, order, features, strict=True):
        row[strongest[:important]] = 2 + np.arange(important, 0, -1)
        rounds = _duplicates(strongest[important:], vectors @ vectors.T, cut.tokens - important)
        row[strongest[important:]] = 1  # those that are never found to be duplicates
        for number, gone in enumerate(rounds):
            row[gone] = number / len(rounds)
    return ranking


def _duplicates(rest: np.ndarray, cosine: np.ndarray, wanted: int) -> list[np.ndarray]:
    """Round by round, the patches that go until `wanted` of the rest are left; `cosine` [N, N] of all patches."""
    rounds: list[np.ndarray] = []
    while len(rest) > wanted:
        evens, odds = rest[::2], rest[1::2]
        if not len(odds):  # one is left, and none is wanted
            return [*rounds, rest]
        likeness = cosine[np.ix_(evens, odds)].max(axis=1)
        most_alike = np.argsort(-likeness, kind="stable")
        count = min(PRUNED_AT_ONCE, len(rest) - wanted, len(evens))
        rounds.append(evens[most_alike[:count]])
        rest = np.concatenate([evens[most_alike[count:]], odds])
    return rounds
