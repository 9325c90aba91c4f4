"""Criteria that share the budget out between groups of tokens: PruneSID by meaning, HoloV by place."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from flowcut.criteria.evidence import Budget, Evidence, needed, unit

TOKENS_PER_COMPONENT = 4
"""PruneSID: as many principal components, and so groups, as a quarter of the budget."""
CROPS = 16
"""HoloV: parts of the picture that the budget is shared out between."""
ATTENTION_SCALE, CONTRAST_WEIGHT, TINY = 1e3, 0.09, 1e-6
"""HoloV, as released: what CLS attention is multiplied by, the weight of contrast, and what keeps divisions finite."""


def filled(counts: np.ndarray, room: np.ndarray, total: int, order: np.ndarray) -> np.ndarray:
    """int64 [G], counts raised by one each, in this order, again and again until they sum to `total`; none above its
    room, [G], which sums to `total` at least."""
    counts = np.minimum(counts, room)
    while (missing := total - int(counts.sum())) > 0:
        counts[[group for group in order if counts[group] < room[group]][:missing]] += 1
    return counts


def chosen_first(attention: np.ndarray, chosen: Sequence[np.ndarray]) -> np.ndarray:
    """float64 [N], a ranking by CLS attention (at most 1) with the chosen above all others."""
    ranking = attention.copy()
    ranking[np.concatenate(chosen)] += 1
    return ranking


def prunesid(evidence: Evidence, cut: Budget) -> np.ndarray:
    """float64 [B, N], PruneSID: patches grouped by principal component, doubles left out, the budget shared by groups.

    Each patch belongs to the component of the feature layer's sigmoid that it weighs most in. In a group patches follow
    CLS attention, and those too like a stronger one (cosine above T/32 times the mean of all pairs) come last. Every
    group has one patch at least, the rest go by how many of a group are no doubles, at most 5 ceil(T/64) of each.
    """
    pairs = zip(needed(evidence.features), needed(evidence.cls_attention), strict=True)
    return np.stack([_of_one(features, attention, cut.tokens) for features, attention in pairs])


def _of_one(features: np.ndarray, attention: np.ndarray, tokens: int) -> np.ndarray:
    components = max(tokens // TOKENS_PER_COMPONENT, 1)
    group_of, vectors = principal_groups(features, components), unit(features)
    cosine = vectors @ vectors.T
    threshold = tokens / 32 * cosine[np.triu_indices(len(cosine), 1)].mean()
    members = [np.flatnonzero(group_of == group) for group in range(components)]
    ordered = [_doubles_last(ids, cosine, attention, threshold) for ids in members]
    sizes = np.array([len(ids) for ids in members])
    quotas = group_quotas(sizes, np.array([single for _, single in ordered]), tokens)
    return chosen_first(attention, [ids[:quota] for (ids, _), quota in zip(ordered, quotas, strict=True)])


def principal_groups(features: np.ndarray, components: int) -> np.ndarray:
    """int64 [N], the principal component of sigmoid(features), [N, width], that each patch weighs most in.

    Channels are the observations and patches the variables, each centred over the channels.
    """
    observed = 1 / (1 + np.exp(-features.T))
    centred = observed - observed.mean(axis=0)
    weights = np.linalg.svd(centred, full_matrices=False)[2][:components]
    found: np.ndarray = np.abs(weights).argmax(axis=0)
    return found


def _doubles_last(
    ids: np.ndarray, cosine: np.ndarray, attention: np.ndarray, threshold: float
) -> tuple[np.ndarray, int]:
    """A group's patches, those first that are no doubles of a stronger one; and how many these are."""
    left = ids[np.argsort(-attention[ids], kind="stable")]
    single: list[int] = []
    doubles: list[int] = []
    while len(left):
        strongest, rest = left[0], left[1:]
        single.append(int(strongest))
        is_double = cosine[strongest, rest] > threshold
        doubles += rest[is_double].tolist()
        left = rest[~is_double]
    doubles.sort(key=lambda patch: (-attention[patch], patch))
    return np.array(single + doubles, dtype=np.int64), len(single)


def group_quotas(sizes: np.ndarray, single: np.ndarray, tokens: int) -> np.ndarray:
    """int64 [G], patches that each of PruneSID's groups keeps; they sum to T.

    Args:
        sizes: int64 [G], patches of each group.
        single: int64 [G], those of them that are no doubles.
        tokens: T.
    """
    least = np.minimum(sizes, 1)
    most = np.minimum(np.minimum(sizes, 5 * math.ceil(tokens / 64)), single)
    while most.sum() < tokens:
        most = np.minimum(most + 1, sizes)
    spare = tokens - int(least.sum())
    up_to = np.rint(np.cumsum(single / single.sum()) * spare)
    quotas: np.ndarray = np.minimum(least + np.diff(up_to, prepend=0).astype(np.int64), most)
    for group in np.argsort(-single, kind="stable"):
        quotas[group] += min(most[group] - quotas[group], tokens - quotas.sum())
    return quotas


def holov(evidence: Evidence, cut: Budget) -> np.ndarray:
    """float64 [B, N], HoloV: each of 16 crops keeps its share of the budget, its patches of most CLS attention.

    A crop's share goes by the mean over its patches of attention and contrast: the variance of a patch's cosines to the
    others of its crop, scaled to the attention's size. `official` crops are runs of patches in reading order, as in the
    released code; `paper`: 4 x 4 fields of the grid.
    """
    crops = crops_of(evidence, cut.variant)
    pairs = zip(needed(evidence.features), needed(evidence.cls_attention), strict=True)
    return np.stack([_of_crops(features, attention, crops, cut.tokens) for features, attention in pairs])


def crops_of(evidence: Evidence, variant: str) -> list[np.ndarray]:
    """The patches of each crop, ascending; none is empty."""
    everything = np.arange(evidence.n_patches)
    if variant == "official":
        return [crop for crop in np.array_split(everything, CROPS) if len(crop)]
    assert evidence.grid_cols is not None
    side, grid = math.isqrt(CROPS), everything.reshape(-1, evidence.grid_cols)
    fields = [field for band in np.array_split(grid, side) for field in np.array_split(band, side, axis=1)]
    return [field.flatten() for field in fields if field.size]


def _of_crops(features: np.ndarray, attention: np.ndarray, crops: list[np.ndarray], tokens: int) -> np.ndarray:
    scores = np.array([crop_score(features[crop], attention[crop]) for crop in crops])
    weights, room = scores / (scores.sum() + TINY), np.array([len(crop) for crop in crops])
    quotas = filled(np.floor(weights * tokens).astype(np.int64), room, tokens, np.argsort(-weights, kind="stable"))
    strongest = [crop[np.argsort(-attention[crop], kind="stable")] for crop in crops]
    return chosen_first(attention, [ids[:quota] for ids, quota in zip(strongest, quotas, strict=True)])


def crop_score(features: np.ndarray, attention: np.ndarray) -> float:
    """What a crop of n patches is worth: features [n, width], CLS attention [n].

    As released, a patch's cosine to itself counts as 0 among the n - 1 others, and a crop of one patch has its bare
    attention.
    """
    if len(attention) == 1:
        return float(attention[0])
    vectors, others = features / (np.linalg.norm(features, axis=1, keepdims=True) + TINY), len(attention) - 1
    cosine = vectors @ vectors.T * (1 - np.eye(len(vectors)))
    contrast = ((cosine - cosine.sum(axis=1, keepdims=True) / others) ** 2).sum(axis=1) / others
    scaled = attention * ATTENTION_SCALE
    size = np.abs(scaled).mean() / (np.abs(contrast).mean() + TINY)
    return float((scaled + CONTRAST_WEIGHT * contrast * size).mean())
