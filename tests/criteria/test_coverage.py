"""SCOPE and OTPrune, by hand and against derivations as sets."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import flowcut
from flowcut.criteria import METHODS, Evidence
from flowcut.criteria.coverage import aligned_kernel, covering
from tests import tiny
from tests.criteria.test_criteria_encoder import eager, run
from tests.invariants import ranked


def test_scope_by_hand() -> None:
    """Three patches look alike, and one like no other: first one of the three, then the other, whatever it weighs."""
    features = np.array([[[1, 0], [1, 0.1], [1, -0.1], [0, 1]]], dtype=float)
    evidence = Evidence(1, 4, np.array([[0.4, 0.2, 0.1, 0.3]]), features=features)
    np.testing.assert_array_equal(ranked(evidence, flowcut.Cut("scope", tokens=2)), [[2, 0, 0, 1]])
    assert METHODS["scope"].select(evidence, flowcut.Cut("scope", tokens=2)).tolist() == [[0, 3]]


@pytest.mark.parametrize("count", [1, 3, 20])
def test_each_patch_of_scope_adds_most_to_the_cover_of_the_set(count: int) -> None:
    draw = np.random.default_rng(count)
    vectors, saliency = draw.normal(size=(20, 4)), draw.random(20)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)

    def cover(chosen: list[int]) -> float:
        return sum(max([0.0, *(float(vectors[i] @ vectors[j]) for j in chosen)]) for i in range(20))

    expected: list[int] = []
    for _ in range(count):
        gains = {j: (cover([*expected, j]) - cover(expected)) * saliency[j] for j in range(20) if j not in expected}
        expected.append(max(gains, key=lambda j: gains[j]))
    found = covering(vectors @ vectors.T, saliency, count).tolist()
    assert len(set(found)) == count
    same = found.index(expected[-1]) + 1 if count < 20 else 8  # when all is covered, gains are rounding
    assert found[:same] == expected[:same]


def test_scope_looks_at_the_feature_layer() -> None:
    model, pixels, cut = tiny.clip(), tiny.pixels(2), flowcut.Cut("scope", tokens=11)
    attentions, hidden = eager(model, pixels)
    evidence = Evidence(
        2, 64, attentions[4].mean(dim=1)[:, 0, 1:].double().numpy(), features=hidden[-2][:, 1:].double().numpy()
    )
    np.testing.assert_array_equal(run(model, pixels, cut)[0].kept_patch_ids, METHODS["scope"].select(evidence, cut))


@pytest.mark.parametrize("count", [1, 2, 5])
def test_otprune_greedily_raises_the_determinant(count: int) -> None:
    tokens = np.random.default_rng(count).normal(size=(9, 4))
    channels = torch.tensor(tokens)
    channels = channels / channels.norm(dim=0, keepdim=True)  # over the tokens
    alike = channels @ channels.T
    kernel = torch.eye(9) + 0.01 * alike @ alike.T
    np.testing.assert_allclose(aligned_kernel(tokens), kernel.numpy(), atol=1e-12)
    chosen: list[int] = []
    for _ in range(count):
        left = [i for i in range(9) if i not in chosen]
        chosen.append(max(left, key=lambda i: torch.logdet(kernel[[*chosen, i]][:, [*chosen, i]]).item()))
    ranking = ranked(Evidence(1, 9, features=tokens[None]), flowcut.Cut("otprune", tokens=count))[0]
    assert np.argsort(-ranking, kind="stable")[:count].tolist() == chosen
    assert (ranking > 0).sum() == count
