"""Criteria behind the projector and before the encoder, by hand and against slow derivations; end to end."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch

import flowcut
from flowcut.criteria import METHODS, Evidence
from flowcut.criteria.controls import coarse_grid
from flowcut.criteria.projector import cdpruner, conditional_kernel, dpp_map, max_min, relevance
from flowcut.generation.outside_encoder import coarser
from flowcut.models.loading import VisionLanguageModel
from tests import tiny
from tests.invariants import ranked

QUESTION = "What is in the picture?"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> VisionLanguageModel:
    return flowcut.load(tiny.checkpoint(tmp_path_factory.mktemp("model")))


def ask(model: VisionLanguageModel, cut: Any, **options: Any) -> flowcut.Run:
    return flowcut.ask(model, tiny.picture(), QUESTION, cut, **{"max_new_tokens": 4, **options})


def angles(*degrees: float) -> np.ndarray:
    radians = np.deg2rad(degrees)
    return np.stack([np.cos(radians), np.sin(radians)], axis=1)


def test_divprune_by_hand() -> None:
    """On a circle: 100 degrees is farthest from its neighbour (60 away); then 0, the farthest from 100; then 40."""
    vectors = angles(0, 10, 40, 100)[None] * np.array([1, 7, 2, 3])[None, :, None]  # lengths must not matter
    cut = flowcut.Cut("divprune", tokens=3)
    evidence = Evidence(1, 4, features=vectors)
    np.testing.assert_array_equal(ranked(evidence, cut), [[2, 0, 1, 3]])
    assert METHODS["divprune"].select(evidence, cut).tolist() == [[0, 2, 3]]


def naive_max_min(distance: np.ndarray, count: int) -> list[int]:
    everyone = range(len(distance))
    nearest = {i: min(distance[i, j] for j in everyone if j != i) for i in everyone}
    chosen = [max(everyone, key=nearest.__getitem__)]
    while len(chosen) < count:
        left = [i for i in everyone if i not in chosen]
        chosen.append(max(left, key=lambda i: min(distance[i, j] for j in chosen)))
    return chosen


@pytest.mark.parametrize("count", [1, 2, 9, 30])
def test_max_min_is_the_slow_one(count: int) -> None:
    points = np.random.default_rng(count).normal(size=(30, 4))
    distance = np.linalg.norm(points[:, None] - points, axis=-1)
    assert max_min(distance, count).tolist() == naive_max_min(distance, count)
    assert max_min(np.zeros((1, 1)), 1).tolist() == [0]


def test_relevance_is_least_where_a_patch_is_most_like_the_text() -> None:
    found = relevance(angles(0, 60, 90) * 3, angles(0) * 5)
    np.testing.assert_allclose(found, [1e-6, 0.5 + 1e-6, 1 + 1e-6], atol=1e-12)
    np.testing.assert_allclose(relevance(np.ones((3, 2)), np.ones((1, 2))), [1e-6] * 3)  # all alike: no division by 0


def test_the_kernel_is_relevance_cosine_relevance() -> None:
    kernel = conditional_kernel(angles(0, 60) * 4, np.array([0.5, 1.0]))
    np.testing.assert_allclose(kernel, [[0.25, 0.25], [0.25, 1.0]])


@pytest.mark.parametrize("count", [1, 2, 5, 7])
def test_map_inference_greedily_takes_the_largest_determinant(count: int) -> None:
    draw = np.random.default_rng(count)
    kernel = conditional_kernel(draw.normal(size=(12, 7)), draw.random(12) + 0.1)
    chosen: list[int] = []
    for _ in range(count):
        left = [i for i in range(12) if i not in chosen]
        chosen.append(max(left, key=lambda i: np.linalg.det(kernel[np.ix_([*chosen, i], [*chosen, i])])))
    assert dpp_map(kernel, count).tolist() == chosen


def test_map_inference_of_two_independent_pairs_takes_one_of_each() -> None:
    kernel = conditional_kernel(
        np.array([[1, 0], [1, 0.1], [0, 1], [0.1, 1]], dtype=float), np.array([1, 0.9, 0.8, 0.7])
    )
    assert dpp_map(kernel, 2).tolist() == [0, 2]
    best = max(combinations(range(4), 2), key=lambda pair: np.linalg.det(kernel[np.ix_(pair, pair)]))
    assert set(best) == {0, 2}


def test_more_than_the_rank_of_the_kernel_can_be_chosen() -> None:
    chosen = dpp_map(conditional_kernel(angles(0, 10, 20, 30), np.ones(4)), 4)
    assert sorted(chosen.tolist()) == [0, 1, 2, 3]


def test_cdpruner_prefers_what_differs_from_the_text_and_from_the_chosen() -> None:
    patches, features = angles(90, 88, 0, 45), angles(0, 1, 90, 170)
    ranking = cdpruner(patches, angles(0), features, 2)
    assert np.argsort(-ranking)[:2].tolist() == [0, 3]  # 1 is the double of 0, and 2 is what the text shows


def test_divprune_chooses_among_the_projected_tokens(model: VisionLanguageModel) -> None:
    run, whole = ask(model, flowcut.Cut("divprune", tokens=9)), ask(model, None)
    hf_model = model.model
    inputs = model.processor(images=tiny.picture(), text="<image>", return_tensors="pt")
    with torch.no_grad():
        tokens = hf_model.get_image_features(pixel_values=inputs["pixel_values"], return_dict=True).pooler_output[0]
    vectors = torch.nn.functional.normalize(tokens.double(), dim=-1).numpy()
    expected = naive_max_min(1 - vectors @ vectors.T, 9)
    assert run.final_patch_ids is not None
    assert run.ranking is not None
    assert run.record is not None
    assert run.final_patch_ids.tolist() == sorted(expected)
    assert np.argsort(-run.ranking, kind="stable")[:9].tolist() == expected
    assert run.visual_tokens == 9
    assert run.tower_tokens == tiny.N_PATCHES
    assert run.prompt_tokens == whole.prompt_tokens - tiny.N_PATCHES + 9
    assert any("behind the projector" in note for note in run.record.notes)
    assert run.record.cut is None
    assert [t.id for t in run.tokens] != []


@pytest.mark.parametrize("name", ["divprune", "downsample"])
def test_keeping_all_is_the_whole_picture(model: VisionLanguageModel, name: str) -> None:
    cut, whole = ask(model, flowcut.Cut(name, tokens=tiny.N_PATCHES)), ask(model, None)
    assert [(t.id, t.logprob) for t in cut.tokens] == [(t.id, t.logprob) for t in whole.tokens]
    assert cut.ranking is None
    assert cut.final_patch_ids is not None
    assert len(cut.final_patch_ids) == tiny.N_PATCHES


@pytest.mark.parametrize(
    ("full", "tokens", "grid"),
    [
        ((24, 24), 64, (8, 8)), ((24, 24), 192, (12, 16)), ((24, 24), 128, (8, 16)), ((24, 24), 127, (9, 14)),
        ((24, 24), 1, (1, 1)), ((24, 24), 3, (1, 2)), ((24, 24), 575, (23, 25)), ((8, 8), 63, (7, 8)),
        ((12, 24), 72, (6, 12)),
    ],
)  # fmt: skip
def test_coarse_grids(full: tuple[int, int], tokens: int, grid: tuple[int, int]) -> None:
    if grid[1] > full[1]:
        grid = (23, 24)  # never finer than the picture itself
    found = coarse_grid(*full, tokens)
    assert sorted(found) == sorted(grid)
    assert found[0] * found[1] <= tokens


@pytest.mark.parametrize(("tokens", "sides", "left"), [(16, (4, 4), 16), (17, (4, 4), 16), (12, (3, 4), 12)])
def test_downsample_sees_the_picture_coarsely(
    model: VisionLanguageModel, tokens: int, sides: tuple[int, int], left: int
) -> None:
    run = ask(model, flowcut.Cut("downsample", tokens=tokens))
    assert run.record is not None
    assert run.record.geometry is not None
    assert run.visual_tokens == left
    assert run.record.n_patches == left
    assert run.final_patch_ids is None
    assert run.ranking is None
    geometry = run.record.geometry
    assert (geometry.grid_rows, geometry.grid_cols) == sides
    whole = ask(model, None).record
    assert whole is not None
    assert whole.geometry is not None
    np.testing.assert_allclose(geometry.seen_box(), whole.geometry.seen_box())
    assert any(f"{sides[0]} x {sides[1]} patches" in note for note in run.record.notes)
    assert any("asked for" in note for note in run.record.notes) == (tokens != left)
    assert run.flops.vision < ask(model, None).flops.vision / 2


def test_downsample_is_the_stock_tower_on_a_smaller_picture(model: VisionLanguageModel) -> None:
    cut, hf_model = flowcut.Cut("downsample", tokens=16), model.model
    inputs = model.processor(images=tiny.picture(), text="<image>\nWhat?", return_tensors="pt")
    small = torch.nn.functional.interpolate(inputs["pixel_values"], (24, 24), mode="bicubic", antialias=True)
    with torch.no_grad():
        features = hf_model.get_image_features(
            pixel_values=small, return_dict=True, interpolate_pos_encoding=True
        ).pooler_output[0]
        with flowcut.prune(hf_model, cut) as session:
            session.prepare(inputs)
    torch.testing.assert_close(session.media[0].features, features)


def test_several_pictures_are_each_cut(model: VisionLanguageModel) -> None:
    inputs = model.processor(
        images=[tiny.picture(1), tiny.picture(2)], text="<image><image> differ?", return_tensors="pt"
    )
    for name in ("divprune", "downsample"):
        with torch.no_grad(), flowcut.prune(model.model, flowcut.Cut(name, tokens=9)) as session:
            prepared = session.prepare(inputs)
            assert [len(medium.features) for medium in session.media] == [9, 9]
            assert model.model.generate(**prepared, max_new_tokens=2).shape[0] == 1


def test_the_ranking_is_that_of_the_first_picture(model: VisionLanguageModel) -> None:
    inputs = model.processor(
        images=[tiny.picture(1), tiny.picture(2)], text="<image><image> differ?", return_tensors="pt"
    )
    with torch.no_grad(), flowcut.prune(model.model, flowcut.Cut("divprune", tokens=9)) as session:
        session.prepare(inputs)
        assert session.ranking is not None
        assert session.ranking.shape == (tiny.N_PATCHES,)
        np.testing.assert_array_equal(np.flatnonzero(session.ranking), session.final_patch_ids)


def test_what_is_no_picture_cannot_be_scaled_down() -> None:
    with pytest.raises(flowcut.InvalidCut, match="scales single pictures"):
        coarser(flowcut.Cut("downsample", tokens=4), {"pixel_values_videos": torch.zeros(1, 3, 3, 48, 48)}, 6)
    assert coarser(flowcut.Cut("stride", tokens=4), {}, 6) is None


def test_a_model_without_a_text_tower_says_so(model: VisionLanguageModel) -> None:
    reasons = flowcut.refusals(model)
    assert list(reasons) == ["cdpruner", "evs", "vidcom2"]
    assert flowcut.refusals(model.model) == reasons
    assert "text tower" in reasons["cdpruner"]
    with pytest.raises(flowcut.InvalidCut, match="text tower") as caught:
        ask(model, flowcut.Cut("cdpruner", tokens=9))
    assert str(caught.value) == reasons["cdpruner"]


@pytest.mark.parametrize("name", ["divprune", "downsample"])
def test_a_tower_alone_cannot_cut_elsewhere(name: str) -> None:
    with pytest.raises(flowcut.InvalidCut, match="does not cut inside the vision encoder"):
        flowcut.record(tiny.clip(), flowcut.Cut(name, tokens=9))
