"""Flow records of honest shape without a model: attention of random tokens in which objects stand out with depth.

Every array is taken from whole attention matrices made here, and patches are removed by FlowCut's own schedule, so that
sums, shapes and prune steps hold together as in a record of a real encoder.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from PIL import Image

from flowcut.criteria.flowcut import kept_after, prunes_after, requested_count
from flowcut.cut import CutConfig, FlowCut
from flowcut.records.run import AnswerToken, Flops, Run, Times
from flowcut.records.vision import FlowRecord, Geometry, LayerFlow, PruneStep

WIDTH = 16
PICTURE_HASH = "0" * 64


@dataclass
class Encoder:
    """A made-up encoder: shapes, and which patches stand out."""

    grid: int = 24
    n_layers: int = 12
    n_heads: int = 4
    seed: int = 0

    @property
    def n_patches(self) -> int:
        return self.grid**2

    def salience(self) -> np.ndarray:
        """[N], near 1 on three round objects, near 0 elsewhere."""
        random = np.random.default_rng(self.seed)
        row, column = np.divmod(np.arange(self.n_patches), self.grid)
        bumps = [
            np.exp(-((row - y) ** 2 + (column - x) ** 2) / (2 * (0.09 * self.grid) ** 2))
            for y, x in random.uniform(0.2, 0.8, (3, 2)) * self.grid
        ]
        return np.max(bumps, axis=0)

    def attention(self, layer: int, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """float64 [H, N+1, N+1] attention and [H, N+1, WIDTH] values; sharper with depth, less so in the last layer."""
        random = np.random.default_rng((self.seed, layer))
        noise = random.normal(size=(self.n_heads, self.n_patches + 1))
        values = random.normal(size=(self.n_heads, self.n_patches + 1, WIDTH)) * 0.3
        depth = min(layer, self.n_layers - 2) / (self.n_layers - 1)
        salience = np.concatenate([[0.5], self.salience()])
        tokens = np.concatenate([[0], ids + 1])
        sharpness = np.linspace(0.7, 1.6, self.n_heads)[:, None, None]
        key = (6 * depth * salience[None] + 0.6 * noise)[:, None, tokens]
        query = random.normal(size=(self.n_heads, self.n_patches + 1))[:, tokens, None]
        logits = sharpness * key + 0.3 * query * noise[:, None, tokens]
        weights = np.exp(logits - logits.max(-1, keepdims=True))
        values += salience[None, :, None] * 0.5
        return weights / weights.sum(-1, keepdims=True), values[:, tokens]


def square_geometry(width: int, height: int, grid: int = 24, patch: int = 14) -> Geometry:
    """As CLIP's processor has it: the short side to the input size, the middle square of the rest."""
    size = grid * patch
    short = min(width, height)
    resized = int(size * width / short), int(size * height / short)
    left, top = (resized[0] - size) // 2, (resized[1] - size) // 2
    return Geometry(width, height, *resized, left, top, size, size, patch, grid, grid)


def flow_record(encoder: Encoder, cut: CutConfig | None = None, geometry: Geometry | None = None) -> FlowRecord:
    """Record a pass through the made-up encoder, pruned as FlowCut does where a cut is given; B = 1."""
    ids = np.arange(encoder.n_patches)
    pruned_at = np.full(encoder.n_patches, -1)
    feature_layer = encoder.n_layers - 2
    layers, steps = [], []
    cumulative: np.ndarray | None = None
    for layer in range(encoder.n_layers):
        attention, values = encoder.attention(layer, ids)
        flow = _layer(layer, ids, attention, values)
        if cut is not None and len(ids) > cut.tokens:
            score, relation = _score(attention, values)
            cumulative = score if cumulative is None else 0.5 * cumulative + 0.5 * score
            flow = replace(
                flow, scored=True, **_single({"relation": relation, "score": score, "cumulative": cumulative})
            )
            if prunes_after(layer, feature_layer):
                step = _step(layer, relation, len(ids), cut.tokens, feature_layer - 1 - layer)
                keep = np.sort(np.argsort(-cumulative, kind="stable")[: step.kept_after])
                margin = cumulative - cumulative[keep].min()
                flow = replace(flow, step=step, **_single({"cutoff": cumulative[keep].min(), "margin": margin}))
                flow = replace(flow, **_nearest_kept(ids, values, keep))
                pruned_at[np.setdiff1d(ids, ids[keep])] = layer
                ids, cumulative = ids[keep], cumulative[keep]
                steps.append(step)
        layers.append(flow)
    return FlowRecord(
        tuple(layers), tuple(steps), ids[None], pruned_at[None], encoder.n_patches, encoder.n_layers, encoder.n_heads,
        feature_layer, cut, "synthetic", None, "test", "float32", "cpu",
        geometries=(geometry,) if geometry else (),
    )  # fmt: skip


def run(
    record: FlowRecord, answer: str = "a red ball", token_ids: tuple[int, ...] = (1, 2, 3), **changes: object
) -> Run:
    """A finished run around a record."""
    geometry = record.geometry
    size = (geometry.original_width, geometry.original_height) if geometry else (336, 336)
    words = answer.split()
    tokens = tuple(
        AnswerToken(
            token, (" " if i else "") + (words[i] if i < len(words) else ""), -0.1 * (i + 1), ((9, " blue", -3.0),)
        )
        for i, token in enumerate(token_ids)
    )
    settings: dict[str, Any] = {
        "question": "What is there?", "prompt": "USER: What is there?", "answer": answer, "tokens": tokens,
        "cut": record.cut, "times": Times(0.01, 0.1, 0.01, 0.01, 0.1, 0.2), "prompt_tokens": 600,
        "visual_tokens": record.kept_patch_ids.shape[1], "kv_bytes": (1000,) * 4, "peak_memory_bytes": None,
        "flops": Flops(1e9, 1e8, 1e9, 1e8), "image_hash": PICTURE_HASH, "image_size": size, "model_id": "synthetic",
        "revision": None, "family": "test", "dtype": "float32", "device": "cpu", "generation": {}, "stopped": False,
        "record": record, "created": "2026-01-01",
    }  # fmt: skip
    return Run(**{**settings, **changes})


def pair(width: int = 640, height: int = 480, tokens: int = 64, encoder: Encoder | None = None) -> tuple[Run, Run]:
    """The unpruned and the pruned run of one question about a picture of this size."""
    encoder = encoder or Encoder()
    geometry = square_geometry(width, height, encoder.grid)
    return run(flow_record(encoder, None, geometry)), run(flow_record(encoder, FlowCut(tokens), geometry))


def picture(width: int = 640, height: int = 480) -> Image.Image:
    """A picture with something different everywhere."""
    y, x = np.mgrid[:height, :width]
    channels = [x * 255 // width, y * 255 // height, (x // 20 + y // 20) % 2 * 80 + 80]
    return Image.fromarray(np.stack(channels, axis=-1).astype(np.uint8))


def _score(attention: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    relation = attention[:, 0, 1:].mean(0)
    relation = relation / relation.sum()
    return relation * np.abs(values.mean(0)).sum(-1)[1:], relation


def _step(layer: int, relation: np.ndarray, n_kept: int, target: int, remaining: int) -> PruneStep:
    entropy = float(-(relation * np.log(relation)).sum() / np.log(n_kept))
    clamped = remaining == 0
    requested = np.nan if clamped else requested_count(entropy, n_kept, target, remaining)
    after = target if clamped else kept_after(requested, n_kept, target)
    return PruneStep(
        layer, n_kept, after, None if clamped else round(requested), clamped, np.array([np.nan if clamped else
        entropy]), np.array([requested]), np.array([n_kept]), np.array([after]),
    )  # fmt: skip


def _nearest_kept(ids: np.ndarray, values: np.ndarray, keep: np.ndarray) -> dict[str, Any]:
    """Of each patch that goes, the patch that stays of the nearest value vector, heads joined: B = 1."""
    joined = values.transpose(1, 0, 2).reshape(len(ids) + 1, -1)[1:]
    unit = joined / np.linalg.norm(joined, axis=1, keepdims=True)
    cosines = unit @ unit[keep].T
    stays = np.isin(np.arange(len(ids)), keep)
    return {
        "nearest_kept_id": np.where(stays, -2, ids[keep][cosines.argmax(1)])[None],
        "nearest_kept_cosine": np.where(stays, np.nan, cosines.max(1)).astype(np.float32)[None],
    }


def _single(arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    """For a batch of one, in single precision, as records have it."""
    return {name: np.asarray(array, np.float32)[None] for name, array in arrays.items()}


def _layer(layer: int, ids: np.ndarray, attention: np.ndarray, values: np.ndarray) -> LayerFlow:
    mean = attention.mean(0)
    tokens = np.concatenate([[-1], ids])
    sources = np.argsort(-mean, axis=1)[:, :4]
    single = np.float32
    return LayerFlow(
        layer=layer,
        patch_ids=ids[None],
        cls_row=attention[None, :, 0, :].astype(single),
        cls_column=attention[None, :, :, 0].astype(single),
        received_mass=mean.sum(0)[None].astype(single),
        received_by_head=attention.sum(1)[None].astype(np.float16),
        row_entropy=-(attention * np.log(attention)).sum(-1).mean(-1)[None].astype(single),
        attention_distance=np.zeros((1, attention.shape[0]), single),
        value_norm=np.abs(values.mean(0)).sum(-1)[None].astype(single),
        head_value_norm=np.abs(values).sum(-1).mean(0)[None].astype(single),
        similarity=np.full((1, len(tokens)), 1 / len(tokens), single),
        hidden_norm=np.ones((1, len(tokens)), single),
        top_source_ids=tokens[sources][None],
        top_source_weights=np.take_along_axis(mean, sources, 1)[None].astype(single),
        top_destination_id=tokens[mean.argmax(0)][None],
        top_destination_weight=mean.max(0)[None].astype(single),
        scored=False,
    )


def head_mean(record: FlowRecord, layer: int, direction: str) -> dict[int, float]:
    """Every patch's flow in one layer, mean over the heads, one number at a time."""
    flow = record.layers[layer]
    attention = flow.cls_row if direction == "inflow" else flow.cls_column
    ids = flow.patch_ids[0]
    return {
        int(patch): float(np.mean([attention[0, head, 1 + place] for head in range(record.n_heads)], dtype=np.float64))
        for place, patch in enumerate(ids)
    }
