"""ApET: its basis, its errors, what is merged, and its second cut."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

import flowcut
from flowcut.criteria import METHODS, Evidence
from flowcut.criteria.approximation import apet_joins, apet_layers, approximation_error, basis_then_error
from flowcut.criteria.approximation import farthest_points as farthest
from tests import tiny
from tests.criteria.test_criteria_encoder import eager, run
from tests.decoder.test_language import SIZES, SPAN, prompt


def test_farthest_points_by_hand() -> None:
    """On a line: 10 is farthest from the mean; then 0, the farthest from it; then 2, two away from 0."""
    assert farthest(np.array([[0.0], [1], [2], [10]]), 3).tolist() == [3, 0, 2]
    assert sorted(farthest(np.zeros((4, 2)), 4).tolist()) == [0, 1, 2, 3]


def test_each_point_is_the_farthest_from_those_before() -> None:
    points = np.random.default_rng(0).normal(size=(30, 5))
    order = farthest(points, 8).tolist()
    for place in range(1, 8):
        near = [min(np.linalg.norm(point - points[j]) for j in order[:place]) for point in points]
        assert order[place] == int(np.argmax(near))


def test_the_error_is_that_of_ridge_regression() -> None:
    """The same as least squares with one more row for each weight, and nothing for what the basis spans."""
    draw = np.random.default_rng(1)
    features, basis = draw.normal(size=(12, 9)), draw.normal(size=(3, 9))
    rows = np.concatenate([basis.T, np.sqrt(1e-5) * np.eye(3)])
    weights = np.linalg.lstsq(rows, np.concatenate([features.T, np.zeros((3, 12))]), rcond=None)[0]
    expected = np.linalg.norm(features.T - basis.T @ weights, axis=0)
    np.testing.assert_allclose(approximation_error(features, basis), expected, rtol=1e-6)
    spanned = np.array([[1.0, 2, 0], [0, 0, 5]])
    found = approximation_error(spanned, np.array([[1.0, 0, 0], [0, 1, 0]]))
    np.testing.assert_allclose(found, [0, 5], atol=1e-4)


@pytest.mark.parametrize("tokens", [1, 9, 10, 11, 30])
def test_the_basis_stays_and_then_the_largest_errors(tokens: int) -> None:
    features = np.random.default_rng(2).normal(size=(40, 30))
    ranking = basis_then_error(features, tokens)
    basis = farthest(features, 10).tolist()
    error = approximation_error(features, features[basis])
    others = [i for i in np.argsort(-error).tolist() if i not in basis]
    kept = np.argsort(-ranking, kind="stable")[:tokens].tolist()
    assert kept == (basis + others)[:tokens]


def test_every_other_patch_joins_the_most_alike_that_is_no_basis() -> None:
    features = np.random.default_rng(3).normal(size=(2, 40, 30))
    evidence, cut = Evidence(2, 40, features=features), flowcut.Cut("apet", tokens=14)
    rank = METHODS["apet"].rank
    assert rank is not None
    joins = apet_joins(evidence, cut, rank(evidence, cut))
    for own, row in zip(features, joins, strict=True):
        basis, kept = farthest(own, 10).tolist(), np.argsort(-basis_then_error(own, 14), kind="stable")[:14].tolist()
        for patch in range(40):
            targets = sorted(set(kept) - set(basis))
            cosine = [own[patch] @ own[j] / np.linalg.norm(own[patch]) / np.linalg.norm(own[j]) for j in targets]
            assert row[patch] == (-1 if patch in kept else targets[int(np.argmax(cosine))])
    few = flowcut.Cut("apet", tokens=8)
    assert (apet_joins(evidence, few, rank(evidence, few)) == -1).all()


def test_a_kept_patch_is_the_mean_of_all_that_it_stands_for() -> None:
    model, pixels, cut = tiny.clip(), tiny.pixels(1), flowcut.Cut("apet", tokens=16)
    hidden = eager(model, pixels)[1][-2][0]
    features = hidden[None, 1:].double().numpy()
    evidence, method = Evidence(1, 64, features=features), METHODS["apet"]
    joins = apet_joins(evidence, cut, method.ranking(evidence, cut))[0]
    record, out = run(model, pixels, cut)
    got = out.hidden_states[-2][0, 1:]
    assert record.kept_patch_ids[0].tolist() == method.select(evidence, cut)[0].tolist()
    for row, patch in zip(got, record.kept_patch_ids[0].tolist(), strict=True):
        group = [patch, *np.flatnonzero(joins == patch).tolist()]
        torch.testing.assert_close(row, hidden[1:][group].mean(dim=0), atol=1e-5, rtol=1e-4)
    assert (joins >= 0).sum() == 48
    assert any("mean of all that it stands for" in note for note in record.notes)


def test_the_second_cut_looks_at_hidden_states_before_layer_16_of_32() -> None:
    assert (apet_layers(32), apet_layers(8), apet_layers(2)) == ((15,), (3,), (0,))
    torch.manual_seed(0)
    sizes = {**SIZES, "num_hidden_layers": 8, "initializer_range": 0.2}
    model = AutoModelForCausalLM.from_config(LlamaConfig(**sizes)).eval()
    with torch.no_grad():
        states = model(prompt(), output_hidden_states=True).hidden_states[4][0, 3:15].double().numpy()
        with flowcut.record_language(model, SPAN, flowcut.Cut("apet-decoder", tokens=11)) as rec:
            model(prompt())
    ranking = basis_then_error(states, 11)
    assert rec.record.layer == 3
    assert rec.record.ranking is not None
    np.testing.assert_allclose(rec.record.ranking[0], ranking, atol=1e-4)
    assert rec.record.kept(0).tolist() == sorted(np.argsort(-ranking, kind="stable")[:11].tolist())
