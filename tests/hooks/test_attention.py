"""The streamed statistics against the attention matrices that eager attention gives."""

import threading

import numpy as np
import pytest
import torch
from transformers import CLIPVisionConfig, CLIPVisionModel

import flowcut
from flowcut.encoder.statistics import QUERY_BLOCK
from flowcut.records.vision import LayerFlow
from tests import tiny


def attentions(model: CLIPVisionModel, pixel_values: torch.Tensor) -> list[np.ndarray]:
    """Each layer's [B, H, N+1, N+1], from the same weights run eagerly."""
    eager = CLIPVisionModel(CLIPVisionConfig.from_dict(model.config.to_dict(), attn_implementation="eager")).eval()
    eager.load_state_dict(model.state_dict())
    with torch.no_grad():
        return [a.numpy() for a in eager(pixel_values, output_attentions=True).attentions]


def large_clip(n_patches_side: int = 13) -> CLIPVisionModel:
    """More tokens than a block of queries, and not a multiple of it."""
    torch.manual_seed(1)
    config = CLIPVisionConfig(
        hidden_size=32, intermediate_size=32, num_hidden_layers=3, num_attention_heads=2,
        image_size=n_patches_side * 4, patch_size=4,
    )  # fmt: skip
    model = CLIPVisionModel(config).eval()
    tiny.sharpen(model, 5.0)
    return model


@pytest.fixture(scope="module")
def watched() -> tuple[list[LayerFlow], list[np.ndarray], list[np.ndarray]]:
    model = large_clip()
    pixel_values = torch.randn(2, 3, 52, 52, generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), flowcut.record(model) as rec:
        hidden = model(pixel_values, output_hidden_states=True).hidden_states
    assert rec.record.layers[0].cls_row.shape[-1] > QUERY_BLOCK
    return list(rec.record.layers), attentions(model, pixel_values), [h.numpy() for h in hidden]


def test_rows_and_columns_of_cls(watched: tuple) -> None:
    for flow, matrix, _ in zip(*watched, strict=False):
        np.testing.assert_allclose(flow.cls_row, matrix[:, :, 0], atol=1e-5)
        np.testing.assert_allclose(flow.cls_column, matrix[:, :, :, 0], atol=1e-5)
        np.testing.assert_allclose(flow.cls_row.sum(-1), 1, atol=1e-5)


def test_received_mass_and_row_entropy(watched: tuple) -> None:
    for flow, matrix, _ in zip(*watched, strict=False):
        np.testing.assert_allclose(flow.received_mass, matrix.mean(1).sum(1), atol=1e-4)
        assert flow.received_by_head is not None
        assert flow.received_by_head.dtype == np.float16
        np.testing.assert_allclose(flow.received_by_head, matrix.sum(2), rtol=1e-3, atol=1e-4)
        entropy = -(matrix * np.log(np.maximum(matrix, 1e-45))).sum(-1).mean(-1)
        np.testing.assert_allclose(flow.row_entropy, entropy, atol=1e-4)


def test_attention_distance_in_patches(watched: tuple) -> None:
    side = np.arange(169)
    row, column = side // 13, side % 13
    distance = np.hypot(row[:, None] - row, column[:, None] - column)
    for flow, matrix, _ in zip(*watched, strict=False):
        patches = matrix[:, :, 1:, 1:]
        expected = ((patches * distance).sum(-1) / patches.sum(-1)).mean(-1)
        np.testing.assert_allclose(flow.attention_distance, expected, atol=1e-4)


def test_strongest_sources_and_destinations(watched: tuple) -> None:
    for flow, matrix, _ in zip(*watched, strict=False):
        head_mean = matrix.mean(1)
        strongest = -np.sort(-head_mean, axis=-1)[..., :4]
        np.testing.assert_allclose(flow.top_source_weights, strongest, atol=1e-5)
        found = np.take_along_axis(head_mean, flow.top_source_ids + 1, axis=-1)
        np.testing.assert_allclose(found, strongest, atol=1e-5)
        np.testing.assert_allclose(flow.top_destination_weight, head_mean.max(1), atol=1e-5)
        paid = np.take_along_axis(head_mean, flow.top_destination_id[:, None] + 1, axis=1)[:, 0]
        np.testing.assert_allclose(paid, head_mean.max(1), atol=1e-5)


def test_hidden_norms_are_of_the_layers_input(watched: tuple) -> None:
    for flow, _, hidden in zip(*watched, strict=False):
        np.testing.assert_allclose(flow.hidden_norm, np.linalg.norm(hidden, axis=-1), rtol=1e-5)


def test_matrices_only_on_request() -> None:
    model, pixel_values = tiny.clip(), tiny.pixels(2)
    with torch.no_grad(), flowcut.record(model, flowcut.FlowCut(9, per_image=True), matrices=True) as rec:
        model(pixel_values)
    for flow, whole in zip(rec.record.layers[:2], attentions(model, pixel_values), strict=False):
        assert flow.head_mean is not None
        assert flow.head_mean.dtype == np.float16
        np.testing.assert_allclose(flow.head_mean, whole.mean(1), atol=1e-3)
        np.testing.assert_array_equal(flow.head_mean[:, :, 0], flow.cls_column.mean(1).astype(np.float16))
    last = rec.record.image(1).layers[-1].head_mean
    assert last is not None
    assert last.shape == (1, 10, 10)
    with torch.no_grad(), flowcut.record(model) as rec:
        model(pixel_values)
    assert rec.record.layers[0].head_mean is None


def test_fewer_tokens_than_sources_are_padded() -> None:
    model = tiny.clip()
    with torch.no_grad(), flowcut.record(model, flowcut.FlowCut(tokens=1)) as rec:
        model(tiny.pixels())
    last = rec.record.layers[-1]
    assert last.top_source_ids.shape == (1, 2, 4)
    assert set(last.top_source_ids[0, :, 2:].ravel().tolist()) == {-2}
    assert last.attention_distance.tolist() == [[0, 0, 0, 0]]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_the_models_own_attention_is_called(attention: str) -> None:
    model = tiny.clip(attention=attention)
    with torch.no_grad():
        before = model(tiny.pixels(2), output_hidden_states=True, output_attentions=attention == "eager")
        with flowcut.record(model):
            inside = model(tiny.pixels(2), output_hidden_states=True, output_attentions=attention == "eager")
    assert all(torch.equal(a, b) for a, b in zip(before.hidden_states, inside.hidden_states, strict=True))
    if attention == "eager":
        assert all(torch.equal(a, b) for a, b in zip(before.attentions, inside.attentions, strict=True))


def test_leaving_in_another_thread_or_out_of_order_leaves_nothing() -> None:
    model, other = tiny.clip(), tiny.clip(seed=1)
    own = model.config._attn_implementation
    recording = flowcut.record(model)
    recording.__enter__()
    thread = threading.Thread(target=recording.__exit__, args=(None, None, None))
    thread.start()
    thread.join()
    assert model.config._attn_implementation == own
    first, second = flowcut.record(model), flowcut.record(other)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    second.__exit__(None, None, None)
    assert model.config._attn_implementation == other.config._attn_implementation == own
    with torch.no_grad(), flowcut.record(other) as again:
        other(tiny.pixels())
    assert again.record.batch == 1
