"""The cut's configuration and FlowCut's schedule."""

import math
from typing import Any

import numpy as np
import pytest

import flowcut
from flowcut.criteria.flowcut import kept_after, prunes_after, requested_count
from flowcut.cut import CutConfig, all_cuts
from flowcut.encoder.locate import feature_layer_index, read_layer_index


@pytest.mark.parametrize("tokens", [0, -1, 2.5, 64.0, math.nan, math.inf, True, "64", None, [64]])
def test_tokens_must_be_a_whole_number_of_at_least_one(tokens: Any) -> None:
    with pytest.raises(ValueError, match=r"^tokens is .*whole number of at least 1\.$"):
        flowcut.FlowCut(tokens=tokens)


def test_numpy_whole_numbers_are_whole_numbers() -> None:
    tokens: Any = np.int64(64)
    cut = flowcut.FlowCut(tokens=tokens)
    assert cut.tokens == 64
    assert type(cut.tokens) is int


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"method": "flowcuts"}, "choose one of flowcut, random, stride, cls-attention"),
        ({"variant": "arxiv"}, "choose one of official, paper"),
        ({"method": "random", "variant": "paper"}, "has no variants"),
        ({"layer": 3}, "takes no layer"),
        ({"seed": 3}, "draws nothing at random"),
        ({"method": "random", "seed": -1}, "at least 0"),
        ({"method": "random", "seed": 0.5}, "whole number"),
        ({"method": "cls-attention", "layer": "last"}, "whole number"),
        ({"per_image": "yes"}, "True or False"),
    ],
)
def test_settings_that_cannot_be_carried_out(settings: dict, sentence: str) -> None:
    with pytest.raises(flowcut.InvalidCut, match=sentence) as caught:
        CutConfig(**settings)
    assert str(caught.value).endswith(".")
    assert ". " not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("cut", "title"),
    [
        (flowcut.FlowCut(), "FlowCut 64 (official)"),
        (flowcut.FlowCut(32, "paper", per_image=True), "FlowCut 32 (paper, per image)"),
        (flowcut.Cut("random", tokens=5), "Random 5 (seed 0)"),
        (flowcut.Cut("stride", tokens=5), "Stride 5"),
        (flowcut.Cut("cls-attention", tokens=5, layer=-1), "CLS attention 5 (layer -1)"),
    ],
)
def test_titles(cut: CutConfig, title: str) -> None:
    assert cut.title == title
    assert CutConfig(**cut.as_dict()) == cut


@pytest.mark.parametrize(
    ("layer", "read", "behind"), [(None, 22, False), (-1, 22, True), (23, 22, True), (-2, 22, False), (-1, 23, False)]
)
def test_a_criterion_that_looks_behind_what_is_read_says_so(layer: int | None, read: int, behind: bool) -> None:
    said = flowcut.Cut("cls-attention", tokens=5, layer=layer).looks_behind(24, read)
    assert (said is not None) == behind
    if said is not None:
        assert said.startswith("CLS attention looks at vision layer 23, behind layer 22 whose output")
        assert said.count(".") == 1


def test_by_themselves_no_criterion_looks_behind_what_is_read() -> None:
    cuts = all_cuts(5, every_setting=True)
    assert any(cut.variant == "paper" for cut in cuts)
    assert all(cut.looks_behind(24, 22) is None for cut in cuts)


def test_prune_points_count_back_from_the_last_scored_layer() -> None:
    assert [layer for layer in range(24) if prunes_after(layer, feature_layer=22)] == list(range(1, 22, 2))
    assert [layer for layer in range(3) if prunes_after(layer, feature_layer=1)] == [0]


def test_flat_attention_asks_for_nothing_and_peaked_attention_for_most() -> None:
    assert requested_count(1.0, n_kept=100, target=64, remaining=4) == 0
    assert requested_count(0.0, n_kept=100, target=64, remaining=4) == 18


def test_counts_round_half_to_even_and_stop_at_the_target() -> None:
    assert kept_after(2.5, 100, 64) == 98
    assert kept_after(3.5, 100, 64) == 96
    assert kept_after(99.0, 100, 64) == 64


def test_feature_layer_is_the_earliest_of_the_hidden_states_read() -> None:
    assert feature_layer_index(-2, 24) == 22
    assert feature_layer_index(23, 24) == 22
    assert feature_layer_index([-2, -5], 24) == 19
    assert read_layer_index([-2, -5], 24) == 22
    assert read_layer_index(-2, 24) == 22


@pytest.mark.parametrize("hidden_state", [0, 1, 25, -24, -25, []])
def test_feature_layers_that_leave_nothing_to_cut(hidden_state: int | list[int]) -> None:
    with pytest.raises(flowcut.InvalidCut, match="24 layers"):
        feature_layer_index(hidden_state, 24)
