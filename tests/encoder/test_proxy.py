"""An encoder without a CLS token: the mean query and value of its patches stand in, and the record says so."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import SiglipVisionConfig, SiglipVisionModel

import flowcut
from flowcut.criteria.flowcut import cls_logits, criteria, group_mean, group_positions, ungroup, with_proxy
from flowcut.records.vision import PADDING_ID, FlowRecord
from tests import tiny
from tests.encoder.test_vision import state_of

CUTS = [
    flowcut.FlowCut(tokens=9),
    flowcut.FlowCut(tokens=9, variant="paper"),
    flowcut.Cut("random", tokens=9, seed=4),
    flowcut.Cut("cls-attention", tokens=9, layer=2),
]


def siglip(attention: str = "sdpa", side: int = 48, n_layers: int = 6) -> SiglipVisionModel:
    torch.manual_seed(0)
    config = SiglipVisionConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=n_layers, num_attention_heads=4, image_size=side,
        patch_size=4 if side == 52 else 6, attn_implementation=attention,
    )  # fmt: skip
    model = SiglipVisionModel(config).eval()
    tiny.sharpen(model, 3.0)
    return model


def run(model: Any, pixel_values: torch.Tensor, cut: Any = None, **options: Any) -> tuple[FlowRecord, Any]:
    with torch.no_grad(), flowcut.record(model, cut, **options) as rec:
        out = model(pixel_values, output_hidden_states=True)
    return rec.record, out


@pytest.fixture(scope="module")
def watched() -> tuple[FlowRecord, list[np.ndarray], list[tuple[np.ndarray, ...]]]:
    """The record of 169 patches, more than a block of queries; eager attention; queries, keys, values by projection."""
    model = siglip(side=52, n_layers=3)
    pixel_values = torch.randn(2, 3, 52, 52, generator=torch.Generator().manual_seed(0))
    record, out = run(model, pixel_values)
    eager = siglip("eager", side=52, n_layers=3)
    eager.load_state_dict(model.state_dict())
    with torch.no_grad():
        matrices = [a.numpy() for a in eager(pixel_values, output_attentions=True).attentions]
        projected = []
        for layer, hidden in zip(model.encoder.layers, out.hidden_states[:-1], strict=True):
            normed, own = layer.layer_norm1(hidden), layer.self_attn
            parts = (own.q_proj(normed), own.k_proj(normed), own.v_proj(normed))
            projected.append(tuple(p.view(2, 169, 4, 8).transpose(1, 2).double().numpy() for p in parts))
    return record, matrices, projected


def softmax(logits: np.ndarray) -> np.ndarray:
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def test_the_record_says_that_a_proxy_stands_in(watched: Any, tmp_path: Path) -> None:
    record = watched[0]
    assert (record.relay, record.relay_name, record.patches_per_token) == ("proxy", "CLS proxy", 1)
    assert any("no CLS token" in note for note in record.notes)
    loaded = FlowRecord.load(record.save(tmp_path / "record"))
    assert (loaded.relay, loaded.relay_name) == ("proxy", "CLS proxy")
    own, _ = run(tiny.clip(), tiny.pixels())
    assert (own.relay, own.relay_name) == ("cls", "CLS")
    assert FlowRecord.load(own.save(tmp_path / "own")).relay == "cls"


def test_the_proxys_row_is_the_mean_querys_attention(watched: Any) -> None:
    record, _, projected = watched
    for flow, (query, key, value) in zip(record.layers, projected, strict=True):
        row = softmax(np.einsum("bhd,bhnd->bhn", query.mean(2), key) / 8**0.5)
        np.testing.assert_allclose(flow.cls_row[..., 1:], row, atol=1e-5)
        alike = softmax(np.einsum("bhd,bhnd->bhn", value.mean(2), value)).mean(1)
        np.testing.assert_allclose(flow.similarity[:, 1:], alike, atol=1e-5)
        np.testing.assert_allclose(flow.value_norm[:, 1:], np.abs(value.mean(1)).sum(-1), rtol=1e-4)
        np.testing.assert_allclose(flow.value_norm[:, 0], np.abs(value.mean((1, 2))).sum(-1), rtol=1e-4)


def test_nothing_reaches_the_proxy(watched: Any) -> None:
    for flow in watched[0].layers:
        for field in (flow.cls_row[..., 0], flow.cls_column, flow.received_mass[:, 0], flow.similarity[:, 0]):
            assert not field.any()
        assert (flow.top_destination_id[:, 0] == PADDING_ID).all()
        assert (flow.top_destination_id[:, 1:] >= 0).all()
        assert (flow.top_source_ids >= 0).all()


def test_streamed_statistics_equal_eager_attention(watched: Any) -> None:
    record, matrices, projected = watched
    side = np.arange(169)
    distance = np.hypot(side[:, None] // 13 - side // 13, side[:, None] % 13 - side % 13)
    for flow, matrix, (query, key, _) in zip(record.layers, matrices, projected, strict=True):
        head_mean = matrix.mean(1)
        np.testing.assert_allclose(flow.received_mass[:, 1:], head_mean.sum(1), atol=1e-4)
        np.testing.assert_allclose(flow.received_mass.sum(1), 169, rtol=1e-5)
        assert flow.received_by_head is not None
        assert not flow.received_by_head[:, :, 0].any()
        np.testing.assert_allclose(flow.received_by_head[..., 1:], matrix.sum(2), rtol=1e-3, atol=1e-4)
        entropy = -(matrix * np.log(np.maximum(matrix, 1e-45))).sum(-1).mean(-1)
        np.testing.assert_allclose(flow.row_entropy, entropy, atol=1e-4)
        np.testing.assert_allclose(flow.attention_distance, (matrix * distance).sum(-1).mean(-1), atol=1e-4)
        proxy_row = softmax(np.einsum("bhd,bhnd->bhn", query.mean(2), key) / 8**0.5).mean(1)
        rows = np.concatenate([proxy_row[:, None], head_mean], axis=1)
        np.testing.assert_allclose(flow.top_source_weights, -np.sort(-rows, axis=-1)[..., :4], atol=1e-5)
        found = np.take_along_axis(rows, flow.top_source_ids, -1)
        np.testing.assert_allclose(found, flow.top_source_weights, atol=1e-5)
        np.testing.assert_allclose(flow.top_destination_weight[:, 1:], head_mean.max(1), atol=1e-5)
        paid = np.take_along_axis(head_mean, flow.top_destination_id[:, None, 1:], axis=1)[:, 0]
        np.testing.assert_allclose(paid, head_mean.max(1), atol=1e-5)


@pytest.mark.parametrize("cut", CUTS, ids=lambda cut: cut.title)
@pytest.mark.parametrize("per_image", [False, True])
def test_every_method_hands_over_its_target(cut: flowcut.CutConfig, per_image: bool) -> None:
    cut = flowcut.CutConfig(**{**cut.as_dict(), "per_image": per_image})
    record, out = run(siglip(), tiny.pixels(3), cut)
    assert out.hidden_states[-1].shape == out.last_hidden_state.shape == (3, 9, 32)
    assert record.kept_patch_ids.shape == (3, 9)
    assert record.steps[-1].kept_after == 9
    for flow in record.layers:
        if flow.margin is not None:
            after = record.layers[flow.layer + 1].patch_ids
            for image in range(3):
                ids = after[image][after[image] != PADDING_ID]
                live = flow.patch_ids[image] != PADDING_ID
                stays = np.isin(flow.patch_ids[image][live], ids)
                reached = ~np.isnan(flow.margin[image][live])
                np.testing.assert_array_equal((flow.margin[image][live] >= 0)[reached], stays[reached])


def test_the_score_is_that_of_the_mean_query() -> None:
    model = siglip()
    record, _ = run(model, tiny.pixels(2), flowcut.FlowCut(tokens=9))
    first = record.layers[0]
    row = first.cls_row[..., 1:].mean(1)
    np.testing.assert_allclose(first.relation, row, atol=1e-5)  # no CLS to drop: it sums to 1 as it is
    np.testing.assert_allclose(first.semantic, first.similarity[:, 1:], atol=1e-5)
    np.testing.assert_allclose(first.score, (first.relation + first.semantic) * first.value_norm[:, 1:], rtol=1e-4)


@pytest.mark.parametrize("cut", [None, flowcut.FlowCut(tokens=64), flowcut.Cut("stride", tokens=100)])
def test_keeping_all_is_untouched_to_the_bit(cut: Any) -> None:
    model = siglip()
    with torch.no_grad():
        plain = model(tiny.pixels(2), output_hidden_states=True)
    before = state_of(model)
    _, out = run(model, tiny.pixels(2), cut)
    assert state_of(model) == before
    assert all(torch.equal(a, b) for a, b in zip(plain.hidden_states, out.hidden_states, strict=True))
    assert torch.equal(plain.pooler_output, out.pooler_output)


def test_nothing_is_left_after_an_exception() -> None:
    model = siglip()
    before = state_of(model)

    def fail(*_: Any) -> None:
        raise RuntimeError("in the middle of a pass")

    hook = model.encoder.layers[3].register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="middle"), flowcut.record(model, CUTS[0]):
        model(tiny.pixels())
    hook.remove()
    assert state_of(model) == before


def test_per_image_rows_do_not_know_their_neighbours() -> None:
    model, cut = siglip(), flowcut.FlowCut(tokens=9, per_image=True)
    together, out = run(model, tiny.pixels(3), cut)
    for image in range(3):
        alone, out_alone = run(model, tiny.pixels(3)[image : image + 1], cut)
        np.testing.assert_array_equal(together.image(image).kept_patch_ids, alone.kept_patch_ids)
        # Some processors add up a product of three pictures in another order than that of one: 2e-5 was seen.
        torch.testing.assert_close(out.hidden_states[-1][image], out_alone.hidden_states[-1][0], atol=1e-4, rtol=0)


def test_two_threads_do_not_meet() -> None:
    model, results = siglip(), {}
    with torch.no_grad():
        plain = model(tiny.pixels()).last_hidden_state
    expected = run(model, tiny.pixels(), CUTS[0])[0].kept_patch_ids
    ready = threading.Barrier(2)

    def work(name: str) -> None:
        ready.wait()
        with torch.no_grad():
            if name == "cut":
                results[name] = [run(model, tiny.pixels(), CUTS[0])[0].kept_patch_ids for _ in range(5)]
            else:
                results[name] = [model(tiny.pixels()).last_hidden_state for _ in range(5)]

    threads = [threading.Thread(target=work, args=(name,)) for name in ("cut", "whole")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all((kept == expected).all() for kept in results["cut"])
    assert all(torch.equal(state, plain) for state in results["whole"])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_scored_in_float32(dtype: torch.dtype) -> None:
    record, _ = run(siglip().to(dtype), tiny.pixels(2).to(dtype), CUTS[0])
    assert record.kept_patch_ids.shape == (2, 9)
    assert all(np.isfinite(flow.cumulative).all() for flow in record.layers if flow.scored)


def test_the_proxy_asks_and_is_not_asked() -> None:
    query, key, value = (torch.randn(1, 2, 5, 4) for _ in range(3))
    asking = [with_proxy(part) for part in (query, key, value)]
    logits = cls_logits(asking[0], asking[1], 0.5, proxy=True)
    torch.testing.assert_close(logits[..., 1:], torch.einsum("bhd,bhnd->bhn", query.mean(2), key) * 0.5)
    assert torch.isinf(logits[..., 0]).all()
    official, paper = (criteria(*asking, 0.5, variant, proxy=True) for variant in ("official", "paper"))
    torch.testing.assert_close(official.relation, paper.relation)
    torch.testing.assert_close(official.relation, logits[..., 1:].softmax(-1).mean(1))


def test_groups_of_patches_by_hand() -> None:
    whole = torch.tensor([[2, 3, 6, 7, 8, 9, 12, 13]])  # on a grid of 4 columns: the squares of 2 and of 8
    positions = group_positions(whole, grid_cols=4, side=2)
    assert whole[0][positions[0]].tolist() == [[2, 3, 6, 7], [8, 9, 12, 13]]
    means = group_mean(torch.arange(8.0)[None], positions)
    assert means.tolist() == [[1.5, 5.5]]
    assert ungroup(means, positions).tolist() == [[1.5] * 4 + [5.5] * 4]
