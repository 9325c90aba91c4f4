"""Criteria inside the vision encoder: against numbers worked out by hand, and against slow derivations of their own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import flowcut
from flowcut.criteria import METHODS, Evidence
from flowcut.criteria.encoder import visionzip_joins
from flowcut.encoder.statistics import column_mean
from tests import tiny, tiny_qwen
from tests.encoder.test_vision import run
from tests.families.test_qwen_vl import asked
from tests.invariants import ranked

ENCODER = [name for name, method in METHODS.items() if method.stage == "encoder" and not method.takes_patches]
ABLATIONS = [name for name, method in METHODS.items() if method.kind == "ablation"]


def made(batch: int = 2, side: int = 8, seed: int = 0) -> Evidence:
    """Evidence as an encoder would give it, without ties."""
    draw, n = np.random.default_rng(seed), side * side
    shares = [draw.dirichlet(np.ones(n), batch) for _ in range(3)]
    vectors = draw.normal(size=(batch, n, 5))
    return Evidence(
        batch, n, shares[0], draw.random((batch, n)), shares[1], shares[2], vectors, vectors[..., ::-1], side
    )


def of_image(evidence: Evidence, image: int) -> Evidence:
    rows = {name: part[image : image + 1] for name, part in vars(evidence).items() if isinstance(part, np.ndarray)}
    return Evidence(1, evidence.n_patches, **rows, grid_cols=evidence.grid_cols)


@pytest.mark.parametrize("name", [name for name in ENCODER if METHODS[name].recipe is None])
@pytest.mark.parametrize("tokens", [1, 2, 3, 13, 26, 63])
def test_the_asked_number_stays_in_order_and_rows_are_independent(name: str, tokens: int) -> None:
    evidence, cut = made(), flowcut.Cut(name, tokens=tokens, per_image=True)
    kept = METHODS[name].select(evidence, cut)
    assert kept.shape == (2, tokens)
    assert (np.diff(kept, axis=1) > 0).all()
    for image in range(2):
        np.testing.assert_array_equal(METHODS[name].select(of_image(evidence, image), cut)[0], kept[image])


def test_attention_times_value() -> None:
    evidence = Evidence(1, 4, np.array([[0.4, 0.3, 0.2, 0.1]]), np.array([[1.0, 2.0, 1.0, 5.0]]))
    cut = flowcut.Cut("cls-attention-x-value", tokens=2)
    np.testing.assert_allclose(ranked(evidence, cut), [[0.4, 0.6, 0.2, 0.5]])
    assert METHODS[cut.method].select(evidence, cut).tolist() == [[1, 3]]


@pytest.mark.parametrize(
    ("variant", "anchor", "taken"),
    [
        ("paper", 16, [8, 16, 17, 24]),  # at the left edge: none on the row above
        ("official", 16, [8, 15, 16, 17, 24]),
        ("paper", 3, [2, 3, 4, 11]),
        ("official", 3, [0, 2, 3, 4, 11]),  # above the first row: the first patch
    ],
)
def test_hiprune_by_hand(variant: str, anchor: int, taken: list[int]) -> None:
    """T = 30 has one anchor (30 * 0.1 / 5 = 0.6); the rest are those of highest deep column mean."""
    middle, deep = np.zeros((1, 64)), np.arange(64.0)[None] / 64
    middle[0, anchor] = 1.0
    evidence = Evidence(1, 64, middle_mean=middle, deep_mean=deep, grid_cols=8)
    kept = METHODS["column-mean"].select(evidence, flowcut.Cut("column-mean", tokens=30, variant=variant))[0].tolist()
    assert kept == taken + list(range(34 + len(taken), 64))


def naive_hiprune(evidence: Evidence, image: int, tokens: int, variant: str) -> list[int]:
    assert evidence.middle_mean is not None
    assert evidence.deep_mean is not None
    assert evidence.grid_cols is not None
    cols, rows = evidence.grid_cols, evidence.n_patches // evidence.grid_cols
    order = sorted(range(evidence.n_patches), key=lambda i: -evidence.middle_mean[image, i])
    kept = set(order[: round(tokens * 0.1 / 5)])
    for anchor in list(kept):
        for down, right in ((1, 0), (-1, 0), (0, 1), (0, -1)):
            row, col = anchor // cols + down, anchor % cols + right
            if variant == "official":
                kept.add(min(max(anchor + down * cols + right, 0), rows * cols - 1))
            elif 0 <= row < rows and 0 <= col < cols:
                kept.add(row * cols + col)
    for patch in sorted(range(evidence.n_patches), key=lambda i: -evidence.deep_mean[image, i]):
        if len(kept) < tokens:
            kept.add(patch)
    return sorted(kept)


@pytest.mark.parametrize("variant", ["official", "paper"])
@pytest.mark.parametrize("tokens", [5, 40, 160])
def test_hiprune_is_anchors_neighbours_and_the_rest(tokens: int, variant: str) -> None:
    evidence = made(side=15)
    kept = METHODS["column-mean"].select(evidence, flowcut.Cut("column-mean", tokens=tokens, variant=variant))
    for image in range(2):
        assert kept[image].tolist() == naive_hiprune(evidence, image, tokens, variant)


def test_visionzip_by_hand() -> None:
    """T = 6 is 5 dominant and 1 contextual; T = 13: 11 and 2; the targets are evenly strided among the others.

    Where CLS goes on as one of 7 tokens, it is one of 6 dominant ones.
    """
    attention = np.zeros((1, 20))
    attention[0, [0, 3, 4, 9, 19]] = [0.5, 0.1, 0.1, 0.1, 0.1]
    keys = np.random.default_rng(0).normal(size=(1, 20, 3))
    evidence, cut = Evidence(1, 20, attention, keys=keys), flowcut.Cut("visionzip", tokens=6)
    kept = METHODS["visionzip"].select(evidence, cut)[0].tolist()
    assert kept == [0, 1, 3, 4, 9, 19]
    joins = visionzip_joins(evidence, cut, ranked(evidence, cut))[0]
    assert [patch for patch in range(20) if joins[patch] == -1] == kept
    assert set(joins[joins >= 0].tolist()) == {1}
    assert [round(tokens * 54 / 64) for tokens in (64, 128, 192)] == [54, 108, 162]
    with_cls = Evidence(1, 20, attention, keys=keys, with_cls=True)
    assert ranked(with_cls, cut).tolist() == ranked(evidence, cut).tolist()


def test_visionzip_joins_the_target_of_most_alike_keys() -> None:
    evidence, cut = made(), flowcut.Cut("visionzip", tokens=32)
    ranking = ranked(evidence, cut)
    joins = visionzip_joins(evidence, cut, ranking)
    assert evidence.keys is not None
    assert evidence.cls_attention is not None
    for image in range(2):
        dominant = sorted(np.argsort(-evidence.cls_attention[image])[:27].tolist())
        others = [patch for patch in range(64) if patch not in dominant]
        targets = others[:: len(others) // 5][:5]
        assert METHODS["visionzip"].select(evidence, cut)[image].tolist() == sorted(dominant + targets)
        for patch in range(64):
            if patch in dominant or patch in targets:
                assert joins[image, patch] == -1
                continue
            one = evidence.keys[image, patch]
            likeness = {t: one @ evidence.keys[image, t] / np.linalg.norm(evidence.keys[image, t]) for t in targets}
            assert joins[image, patch] == max(likeness, key=likeness.__getitem__)


def naive_vispruner(attention: np.ndarray, features: np.ndarray, tokens: int, share: float) -> list[int]:
    important = int(tokens * share)
    order = sorted(range(len(attention)), key=lambda i: -attention[i])
    kept, rest = order[:important], order[important:]
    vectors = features / np.linalg.norm(features, axis=1, keepdims=True)
    while len(rest) > tokens - important:
        evens, odds = rest[::2], rest[1::2]
        alike = {even: max((float(vectors[even] @ vectors[odd]) for odd in odds), default=0.0) for even in evens}
        evens.sort(key=lambda even: -alike[even])
        rest = evens[min(8, len(rest) - (tokens - important)) :] + odds
    return sorted(kept + rest)


@pytest.mark.parametrize("share", [0.0, 0.5, 0.75, 1.0])
@pytest.mark.parametrize("tokens", [4, 16, 33, 60])
def test_vispruner_is_the_important_and_the_diverse(tokens: int, share: float) -> None:
    evidence = made()
    assert evidence.cls_attention is not None
    assert evidence.features is not None
    kept = METHODS["vispruner"].select(evidence, flowcut.Cut("vispruner", tokens=tokens, important_share=share))
    for image in range(2):
        parts = evidence.cls_attention[image], evidence.features[image]
        assert kept[image].tolist() == naive_vispruner(*parts, tokens, share)


def test_vispruner_drops_the_twin() -> None:
    """All attention on patch 0; of 1 .. 4, patch 1 is the double of patch 2 and goes; three others differ."""
    features = np.eye(5)[None].copy()
    features[0, 2] = features[0, 1]
    evidence = Evidence(1, 5, np.array([[0.9, 0.04, 0.03, 0.02, 0.01]]), features=features)
    cut = flowcut.Cut("vispruner", tokens=4, important_share=0.75)  # three by attention, one diverse
    assert METHODS["vispruner"].select(evidence, cut).tolist() == [[0, 1, 2, 4]]
    evidence = Evidence(1, 5, np.array([[0.9, 0.04, 0.03, 0.02, 0.01]]), features=features)
    assert METHODS["vispruner"].select(evidence, flowcut.Cut("vispruner", tokens=2)).tolist() == [[0, 4]]


@pytest.mark.parametrize("windows", [False, True])
@pytest.mark.parametrize("proxy", [False, True])
def test_column_mean_is_the_mean_column_of_the_matrix(proxy: bool, windows: bool) -> None:
    draw = torch.Generator().manual_seed(0)
    query, key = (torch.randn(2, 3, 200, 4, generator=draw) for _ in range(2))
    window = torch.arange(199).expand(2, -1) // 50 if windows else None
    logits = query @ key.transpose(-1, -2) * 0.5
    if windows:
        group = torch.cat([torch.tensor([-1]), torch.arange(199) // 50])
        logits[..., (group[:, None] != group) & (group[:, None] >= 0) & (group >= 0)] = -torch.inf
    if proxy:
        logits[..., 0] = -torch.inf
    rows = logits.softmax(dim=-1)[:, :, 1 if proxy else 0 :]
    got = column_mean(query, key, 0.5, proxy=proxy, windows=window)
    torch.testing.assert_close(got, rows.mean(dim=(1, 2)), atol=1e-6, rtol=1e-4)


def eager(model: Any, pixels: torch.Tensor) -> tuple[Any, Any]:
    """Every layer's attention matrices and hidden states, from the stock model's own eager attention."""
    model.set_attn_implementation("eager")
    with torch.no_grad():
        out = model(pixels, output_attentions=True, output_hidden_states=True)
    model.set_attn_implementation("sdpa")
    return out.attentions, out.hidden_states


def test_evidence_is_what_eager_attention_shows() -> None:
    """Six layers: the feature layer is 4, HiPrune's middle one round(9/24 * 6) = 2 counted from 1, so 1."""
    model, pixels = tiny.clip(), tiny.pixels(2)
    attentions, hidden = eager(model, pixels)
    middle, deep = (attentions[layer].mean(dim=(1, 2))[:, 1:].double().numpy() for layer in (1, 4))
    cls = attentions[4].mean(dim=1)[:, 0, 1:].double().numpy()
    features = hidden[-2][:, 1:].double().numpy()
    evidence = Evidence(2, 64, cls, None, middle, deep, None, features, 8)
    for name in ("column-mean", "vispruner"):
        record, _ = run(model, pixels, flowcut.Cut(name, tokens=26))
        expected = METHODS[name].select(evidence, flowcut.Cut(name, tokens=26))
        np.testing.assert_array_equal(record.kept_patch_ids, expected)
    flow = run(model, pixels, None)[0].layers[4]
    by_hand = flow.cls_row.mean(axis=1)[:, 1:] * flow.value_norm[:, 1:]
    record, _ = run(model, pixels, flowcut.Cut("cls-attention-x-value", tokens=9))
    np.testing.assert_array_equal(record.kept_patch_ids, np.sort(np.argsort(-by_hand, axis=1)[:, :9], axis=1))


@pytest.mark.parametrize("name", ENCODER)
@pytest.mark.parametrize("per_image", [False, True])
def test_a_tower_hands_over_the_target(name: str, per_image: bool) -> None:
    """CLS is the encoder's own, or where the method hands it over, one of the 13."""
    cut = flowcut.Cut(name, tokens=13, per_image=per_image)
    record, out = run(tiny.clip(), tiny.pixels(3), cut, flows=False)
    patches = 12 if METHODS[name].hands_cls else 13
    assert record.kept_patch_ids.shape == (3, patches)
    assert (np.diff(record.kept_patch_ids, axis=1) > 0).all()
    assert out.hidden_states[-2].shape == (3, 1 + patches, 32)


@pytest.mark.parametrize("name", ENCODER)
def test_keeping_all_is_untouched_to_the_bit(name: str) -> None:
    model, pixels = tiny.clip(), tiny.pixels(2)
    with torch.no_grad():
        plain = model(pixels, output_hidden_states=True)
    record, out = run(model, pixels, flowcut.Cut(name, tokens=64), flows=False)
    assert all(torch.equal(a, b) for a, b in zip(plain.hidden_states, out.hidden_states, strict=True))
    assert record.steps == ()


@pytest.mark.parametrize("variant", ["official", "paper"])
def test_merged_tokens_carry_the_mean_of_what_joined_them(variant: str) -> None:
    """As released CLS is one of the tokens, and those that others joined come last."""
    official = variant == "official"
    model, pixels = tiny.clip(), tiny.pixels(2)
    cut = flowcut.Cut("visionzip", tokens=31 if official else 32, variant=variant)
    keys: list[torch.Tensor] = []
    hook = model.encoder.layers[4].self_attn.k_proj.register_forward_hook(lambda m, i, o: keys.append(o))
    attentions, hidden = eager(model, pixels)
    hook.remove()
    mean_key = keys[0].view(2, 65, 4, 8).mean(dim=2)[:, 1:].double().numpy()
    attention = attentions[4].mean(dim=1)[:, 0, 1:].double().numpy()
    evidence = Evidence(2, 64, attention, keys=mean_key, with_cls=official)
    ranking = ranked(evidence, cut)
    joins = visionzip_joins(evidence, cut, ranking)
    record, out = run(model, pixels, flowcut.Cut("visionzip", tokens=32, variant=variant), flows=False)
    whole = hidden[-2][:, 1:]
    for image in range(2):
        kept = record.kept_patch_ids[image].tolist()
        if official:
            kept.sort(key=lambda patch: (ranking[image, patch] == 1, patch))
        assert len(kept) == cut.tokens
        torch.testing.assert_close(out.hidden_states[-2][image, 0], hidden[-2][image, 0], atol=1e-5, rtol=1e-5)
        for place, patch in enumerate(kept):
            joined = np.flatnonzero(joins[image] == patch)
            assert (len(joined) > 0) <= (ranking[image, patch] == 1)
            expected = whole[image, patch]
            if len(joined):
                expected = expected + whole[image, joined].mean(dim=0)
            torch.testing.assert_close(out.hidden_states[-2][image, 1 + place], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["visionzip", "vispruner"])
@pytest.mark.parametrize("kind", tiny_qwen.KINDS)
def test_squares_of_patches_are_not_compared_as_if_they_were_single(kind: str, name: str) -> None:
    inputs = asked(tiny_qwen.processor(kind), "@ what?")
    encoder = tiny_qwen.model(kind).model.visual
    with (
        pytest.raises(flowcut.InvalidCut, match="single patches"),
        flowcut.record(encoder, flowcut.Cut(name, tokens=7)),
    ):
        encoder(inputs["pixel_values"], grid_thw=inputs["image_grid_thw"])


@pytest.mark.parametrize("name", ABLATIONS)
def test_ablations_leave_out_what_they_say(name: str) -> None:
    """Each layer's score, running score and counts, from the parts that the record shows."""
    record, _ = run(tiny.clip(n_layers=8), tiny.pixels(2), flowcut.Cut(name, tokens=9))
    recipe = METHODS[name].recipe
    assert recipe is not None
    before: dict[int, np.ndarray] = {}
    for flow in record.layers:
        if not flow.scored:
            continue
        for image in range(2):
            score = flow.relation[image]
            if recipe.multi_criteria:
                score = (flow.relation[image] + flow.semantic[image]) * flow.value_norm[image, 1:]
            running = score
            if recipe.cumulative and image in before:
                running = 0.5 * before[image][flow.patch_ids[image]] + 0.5 * score
            np.testing.assert_allclose(flow.cumulative[image], running, rtol=1e-5)
            before[image] = np.full(64, np.nan)
            before[image][flow.patch_ids[image]] = flow.cumulative[image]
    lost = [step.kept_before - step.kept_after for step in record.steps]
    assert sum(lost) == 64 - 9
    if not recipe.adaptive:
        assert max(lost) - min(lost) <= 1
        assert len(lost) == 3  # after layers 1, 3 and 5 of 8; the feature layer is 6
        assert all(np.isnan(step.entropy_ratio).all() for step in record.steps)


def test_all_ablations_are_there_and_choose_differently() -> None:
    recipes = {METHODS[name].recipe for name in [*ABLATIONS, "flowcut"]}
    assert len(recipes) == 8
    kept = {
        run(tiny.clip(), tiny.pixels(), flowcut.Cut(name, tokens=9))[0].kept_patch_ids.tobytes() for name in ABLATIONS
    }
    assert len(kept) >= 6


@pytest.mark.parametrize("name", ["visionzip", "flowcut-single", "column-mean"])
def test_pruning_alone_ranks_the_same_as_with_a_record(name: str) -> None:
    cut, kept = flowcut.Cut(name, tokens=13), []
    for flows in (True, False):
        with torch.no_grad(), flowcut.record(tiny.clip(), cut, flows=flows) as rec:
            rec.encoder.model(tiny.pixels())
        assert rec.ranking is not None
        kept.append(rec.ranking)
        assert len(rec.record.layers) == (6 if flows else 0)
    np.testing.assert_array_equal(*kept)
