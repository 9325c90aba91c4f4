"""FlowCut written down once more, plainly, in float64 and one picture at a time, against the library.

The vectors of the released code know the official variant only; this also covers the paper's, counts per picture,
and any number of layers and tokens.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from transformers import CLIPVisionModel

import flowcut
from tests import tiny


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def heads(layer: torch.nn.Module, hidden: torch.Tensor) -> list[np.ndarray]:
    """Query, key and value of one picture, [H, N+1, d] each."""
    normed = layer.layer_norm1(hidden)
    projections = (layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj)
    return [p(normed)[0].view(len(normed[0]), 4, 8).transpose(0, 1).numpy() for p in projections]


def shares(logits: np.ndarray, variant: str) -> np.ndarray:
    """Head-mean softmax over all tokens (official) or patches alone (paper); patches, summing to 1."""
    weights = softmax(logits)[:, 1:] if variant == "official" else softmax(logits[:, 1:])
    return weights.mean(0) / weights.mean(0).sum()


def plain_flowcut(model: CLIPVisionModel, pixel_values: torch.Tensor, target: int, variant: str) -> tuple:
    """Kept ids and steps (layer, before, after) of one picture."""
    hidden = model.pre_layrnorm(model.embeddings(pixel_values))
    ids, running, steps = np.arange(tiny.N_PATCHES), None, []
    layers = model.encoder.layers
    for index, layer in enumerate(layers):
        query, key, value = heads(layer, hidden)
        hidden = layer(hidden, None)
        remaining = len(layers) - 3 - index
        if len(ids) <= target or remaining < 0:
            continue
        a = shares(np.einsum("hd,hnd->hn", query[:, 0], key) / math.sqrt(8), variant)
        scale = 1.0 if variant == "official" else 1 / math.sqrt(8)
        s = shares(np.einsum("hd,hnd->hn", value[:, 0], value) * scale, variant)
        score = (a + s) * np.abs(value.mean(0))[1:].sum(-1)
        running = score if running is None else 0.5 * running + 0.5 * score
        if remaining % 2:
            continue
        count = target
        if remaining:
            ratio = -(a * np.log(a)).sum() / math.log(len(ids))
            requested = round((len(ids) - target) / math.sqrt(remaining) * (1 - ratio**2))
            count = max(len(ids) - requested, target)
        kept = np.sort(np.argsort(-running, kind="stable")[:count])
        steps.append((index, len(ids), count))
        hidden = hidden[:, np.r_[0, kept + 1]]
        ids, running = ids[kept], running[kept]
    return ids, steps


@pytest.mark.parametrize("variant", ["official", "paper"])
@pytest.mark.parametrize(
    ("n_layers", "target"), [(3, 1), (4, 63), (5, 20), (6, 7), (8, 33), (11, 16), (12, 1), (7, 64), (6, 80)]
)
def test_each_picture_alone(variant: str, n_layers: int, target: int) -> None:
    model = tiny.clip(seed=n_layers, n_layers=n_layers).double()
    pixel_values = tiny.pixels(3, seed=target).double()
    with torch.no_grad(), flowcut.record(model, flowcut.FlowCut(target, variant, per_image=True)) as rec:
        model(pixel_values)
    with torch.no_grad():
        expected = [plain_flowcut(model, image[None], target, variant) for image in pixel_values]
    for index, (kept, steps) in enumerate(expected):
        own = rec.record.image(index)
        np.testing.assert_array_equal(own.kept_patch_ids[0], kept)
        assert [(step.layer, step.kept_before, step.kept_after) for step in own.steps] == steps


def test_the_variants_differ() -> None:
    model = tiny.clip()
    kept = []
    for variant in ("official", "paper"):
        with torch.no_grad(), flowcut.record(model, flowcut.FlowCut(9, variant)) as rec:
            model(tiny.pixels())
        kept.append(rec.record.kept_patch_ids)
    assert (kept[0] != kept[1]).any()
