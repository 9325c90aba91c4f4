"""PruneSID and HoloV, by hand and against slow derivations that share no step with them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import flowcut
from flowcut.criteria import METHODS, Evidence, forget_method
from flowcut.criteria.quotas import crop_score, crops_of, filled, group_quotas, principal_groups
from flowcut.models.loading import VisionLanguageModel
from tests import tiny
from tests.criteria.test_criteria_encoder import eager
from tests.invariants import ranked


def drawn(seed: int, n: int = 64, width: int = 40) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    features = draw.normal(size=(n, width)) + 3 * draw.normal(size=(4, width))[np.arange(n) % 4]
    return features, draw.dirichlet(np.ones(n))


def evidence_of(features: np.ndarray, attention: np.ndarray, cols: int = 8) -> Evidence:
    return Evidence(1, len(attention), attention[None], features=features[None], grid_cols=cols)


def test_groups_are_the_eigenvectors_in_which_patches_weigh_most() -> None:
    features, _ = drawn(0)
    variables = torch.sigmoid(torch.tensor(features)).T
    covariance = torch.cov(variables.T)
    vectors = torch.linalg.eigh(covariance).eigenvectors.flip(1)[:, :5]
    assert principal_groups(features, 5).tolist() == vectors.abs().argmax(dim=1).tolist()


def slow_prunesid(features: np.ndarray, attention: np.ndarray, tokens: int) -> set[int]:
    """Step by step, patch by patch."""
    n, groups = len(attention), max(tokens // 4, 1)
    of = principal_groups(features, groups)  # tested above
    cosine = np.array([[a @ b / np.linalg.norm(a) / np.linalg.norm(b) for b in features] for a in features])
    threshold = tokens / 32 * np.mean([cosine[i, j] for i in range(n) for j in range(i + 1, n)])
    orders, single = [], []
    for group in range(groups):
        alive = {i for i in range(n) if of[i] == group}
        survivors = []
        while alive:
            best = min(alive, key=lambda i: (-attention[i], i))
            survivors.append(best)
            alive = {i for i in alive - {best} if cosine[best, i] <= threshold}
        rest = sorted((i for i in range(n) if of[i] == group and i not in survivors), key=lambda i: -attention[i])
        orders.append(survivors + rest)
        single.append(len(survivors))
    sizes = [len(order) for order in orders]
    least = [min(1, size) for size in sizes]
    most = [min(size, 5 * math.ceil(tokens / 64), alone) for size, alone in zip(sizes, single, strict=True)]
    while sum(most) < tokens:
        most = [min(one + 1, size) for one, size in zip(most, sizes, strict=True)]
    spare, up_to, quotas = tokens - sum(least), 0, []
    for group in range(groups):
        mark = round(sum(single[: group + 1]) / sum(single) * spare)
        quotas.append(min(least[group] + mark - up_to, most[group]))
        up_to = mark
    for group in sorted(range(groups), key=lambda g: -single[g]):
        quotas[group] += min(most[group] - quotas[group], tokens - sum(quotas))
    return {patch for order, quota in zip(orders, quotas, strict=True) for patch in order[:quota]}


@pytest.mark.parametrize("tokens", [1, 3, 8, 16, 31, 48, 63])
def test_prunesid_is_the_slow_one(tokens: int) -> None:
    features, attention = drawn(tokens)
    cut = flowcut.Cut("prunesid", tokens=tokens)
    kept = METHODS["prunesid"].select(evidence_of(features, attention), cut)[0].tolist()
    assert len(kept) == tokens
    assert set(kept) == slow_prunesid(features, attention, tokens)
    ranking = ranked(evidence_of(features, attention), cut)[0]
    assert ranking[kept].min() >= 1 > np.delete(ranking, kept).max(initial=0)


@pytest.mark.parametrize("seed", range(20))
def test_quotas_sum_to_the_budget_and_leave_no_group_out(seed: int) -> None:
    draw = np.random.default_rng(seed)
    sizes = draw.integers(0, 30, size=8)
    sizes[0] += 1
    single = np.minimum(np.maximum(draw.integers(0, 30, size=8), 1), sizes)
    tokens = int(draw.integers(8, max(sizes.sum(), 9)))
    if tokens > sizes.sum():
        tokens = int(sizes.sum())
    quotas = group_quotas(sizes, single, tokens)
    assert quotas.sum() == tokens
    assert (quotas <= sizes).all()
    assert (quotas[sizes > 0] >= 1).all() or tokens < (sizes > 0).sum()


def test_quotas_by_hand() -> None:
    """8 of 3 groups: one each, the other 5 by the survivors 2, 1, 1: up to 2.5, 3.75 and 5, so 2 (even), 2 and 1; but
    groups of one survivor take one, until the sum of upper bounds, 4, is raised by ones: to 4, 3 and 3."""
    assert group_quotas(np.array([9, 9, 9]), np.array([2, 1, 1]), 8).tolist() == [3, 3, 2]


def test_filled_by_hand() -> None:
    assert filled(np.array([1, 0, 5]), np.array([3, 1, 4]), 8, np.array([1, 0, 2])).tolist() == [3, 1, 4]
    assert filled(np.array([1, 0, 2]), np.array([3, 1, 4]), 4, np.array([2, 0, 1])).tolist() == [1, 0, 3]


def test_a_crop_of_two_is_worth_its_attention_and_a_share_for_contrast() -> None:
    """Two patches of cosine c: each has the mean c and the variance c^2, which scaled to the attention's size is it."""
    found = crop_score(np.array([[1.0, 0], [1, 1]]), np.array([0.2, 0.4]))
    assert found == pytest.approx(300 * (1 + 0.09), rel=1e-5)
    assert crop_score(np.ones((1, 2)), np.array([0.2])) == 0.2


def test_crops_are_runs_as_released_and_fields_in_the_paper() -> None:
    evidence = Evidence(1, 64, grid_cols=8)
    assert [crop.tolist() for crop in crops_of(evidence, "official")[:2]] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert [crop.tolist() for crop in crops_of(evidence, "paper")[:2]] == [[0, 1, 8, 9], [2, 3, 10, 11]]
    for variant in ("official", "paper"):
        for n, cols in ((64, 8), (35, 7), (6, 2), (3, 3)):
            crops = crops_of(Evidence(1, n, grid_cols=cols), variant)
            assert sorted(np.concatenate(crops).tolist()) == list(range(n))
            assert all(len(crop) for crop in crops)


def slow_holov(features: np.ndarray, attention: np.ndarray, crops: list[np.ndarray], tokens: int) -> set[int]:
    scores = []
    for crop in crops:
        own = torch.nn.functional.normalize(torch.tensor(features[crop]), dim=1, eps=0)
        cosine = own @ own.T
        cosine.fill_diagonal_(0)
        n = len(crop)
        spread = torch.stack([((row - row.sum() / (n - 1)) ** 2).sum() / (n - 1) for row in cosine])
        scaled = torch.tensor(attention[crop]) * 1000
        scores.append(float((scaled + 0.09 * spread * (scaled.mean() / (spread.mean() + 1e-6))).mean()))
    weights = [score / (sum(scores) + 1e-6) for score in scores]
    shares = [int(weight * tokens) for weight in weights]
    order = sorted(range(len(crops)), key=lambda p: -weights[p])
    for crop in order[: tokens - sum(shares)]:
        shares[crop] += 1
    kept: set[int] = set()
    for crop, share in zip(crops, shares, strict=True):
        kept |= set(sorted(crop.tolist(), key=lambda i: -attention[i])[:share])
    return kept


@pytest.mark.parametrize("variant", ["official", "paper"])
@pytest.mark.parametrize("tokens", [5, 16, 23])
def test_holov_is_the_slow_one(variant: str, tokens: int) -> None:
    features, attention = drawn(tokens, n=144)
    evidence, cut = evidence_of(features, attention, 12), flowcut.Cut("holov", tokens=tokens, variant=variant)
    kept = METHODS["holov"].select(evidence, cut)[0].tolist()
    assert set(kept) == slow_holov(features, attention, crops_of(evidence, variant), tokens)
    assert len(kept) == tokens


@pytest.mark.parametrize("tokens", [1, 30, 63])
def test_holov_keeps_the_budget_where_a_crop_is_smaller_than_its_share(tokens: int) -> None:
    features, attention = drawn(1)
    attention[4:] /= 1e6
    kept = METHODS["holov"].select(evidence_of(features, attention), flowcut.Cut("holov", tokens=tokens))
    assert kept.shape == (1, tokens)
    assert np.isin(np.argsort(-attention)[: min(tokens, 4)], kept).all()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> VisionLanguageModel:
    return flowcut.load(tiny.checkpoint(tmp_path_factory.mktemp("model")))


def test_a_method_behind_the_projector_may_ask_for_what_the_encoder_shows(model: VisionLanguageModel) -> None:
    """All that one layer shows: the same numbers as in the record of the uncut picture."""
    seen: list[Evidence] = []

    def watch(evidence: Evidence, cut: flowcut.CutConfig) -> np.ndarray:
        seen.append(evidence)
        return np.zeros((1, evidence.n_patches))

    needs = ("cls_attention", "value_norm", "deep_mean", "keys", "features")
    flowcut.register_method("watch", flowcut.Method("Watch", "a test", "projector", rank=watch, needs=needs))
    try:
        run = flowcut.ask(model, tiny.picture(), "What?", flowcut.Cut("watch", tokens=9), max_new_tokens=2)
    finally:
        forget_method("watch")
    assert run.record is not None
    layer = run.record.layers[4]
    (found,) = seen
    assert found.keys is not None
    np.testing.assert_allclose(found.cls_attention, layer.cls_row.mean(axis=1)[:, 1:], atol=1e-6)
    np.testing.assert_allclose(found.value_norm, layer.value_norm[:, 1:], rtol=1e-5)
    assert found.keys.shape == (1, 64, 8)
    assert run.record.kept_patch_ids.shape == (1, 64)


@pytest.mark.parametrize("variant", ["official", "paper"])
def test_holov_looks_at_projected_tokens_and_the_feature_layers_attention(
    model: VisionLanguageModel, variant: str
) -> None:
    cut = flowcut.Cut("holov", tokens=9, variant=variant)
    run = flowcut.ask(model, tiny.picture(), "What?", cut, max_new_tokens=2)
    (ranking,) = [one.ranking for one in flowcut.rank_patches(model, tiny.picture(), "What?", [cut])]
    inputs = model.processor(images=tiny.picture(), text="<image>", return_tensors="pt")
    with torch.no_grad():
        pixels = inputs["pixel_values"]
        tokens = model.model.get_image_features(pixel_values=pixels, return_dict=True).pooler_output[0]
    attention = eager(model.model.model.vision_tower, pixels)[0][4].mean(dim=1)[:, 0, 1:].double().numpy()
    evidence = Evidence(1, 64, attention, features=tokens.double().numpy()[None], grid_cols=8)
    expected = METHODS["holov"].select(evidence, cut)[0]
    assert run.final_patch_ids is not None
    np.testing.assert_array_equal(run.final_patch_ids, expected)
    np.testing.assert_array_equal(run.ranking, ranking)
    assert run.record is not None
    assert run.record.differs_from_release == METHODS["holov"].differs
