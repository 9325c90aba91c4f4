"""One-shot methods and their registry."""

import numpy as np
import pytest

import flowcut
from flowcut.criteria import METHODS, Evidence, cls_attention, random, stride


def test_every_method_has_a_name_and_a_source() -> None:
    assert list(flowcut.methods()) == ["flowcut", "random", "stride", "cls-attention"]
    assert all(source for source in flowcut.methods().values())


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if method.select is not None])
def test_one_shot_methods_keep_the_asked_number_in_order(name: str) -> None:
    evidence = Evidence(3, 20, np.random.default_rng(0).random((3, 20)))
    kept = METHODS[name].select(evidence, flowcut.Cut(name, tokens=7))  # type: ignore[misc]
    assert kept.shape == (3, 7)
    assert (np.diff(kept, axis=1) > 0).all()
    assert kept.min() >= 0
    assert kept.max() < 20


def test_random_is_its_seed() -> None:
    evidence = Evidence(2, 50, None)
    draws = [random(evidence, flowcut.Cut("random", tokens=9, seed=seed)) for seed in (0, 0, 1)]
    np.testing.assert_array_equal(draws[0], draws[1])
    assert (draws[0] != draws[2]).any()
    assert (draws[0][0] != draws[0][1]).any()


def test_random_per_image_does_not_know_its_place_in_the_batch() -> None:
    cut = flowcut.Cut("random", tokens=9, per_image=True)
    batch, alone = random(Evidence(3, 50, None), cut), random(Evidence(1, 50, None), cut)
    np.testing.assert_array_equal(batch[2], alone[0])


def test_stride_is_every_nth_patch() -> None:
    assert stride(Evidence(1, 12, None), flowcut.Cut("stride", tokens=4)).tolist() == [[0, 3, 6, 9]]
    assert stride(Evidence(1, 7, None), flowcut.Cut("stride", tokens=3)).tolist() == [[0, 2, 4]]


def test_cls_attention_keeps_the_strongest_and_of_equal_ones_the_first() -> None:
    evidence = Evidence(1, 5, np.array([[0.1, 0.5, 0.1, 0.2, 0.1]]))
    assert cls_attention(evidence, flowcut.Cut("cls-attention", tokens=3)).tolist() == [[0, 1, 3]]
