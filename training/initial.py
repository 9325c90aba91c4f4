"""A vision tower that starts as a local one.

A transformer has no notion of neighbourhood at birth and spends hours of a small budget on finding it. So
position embeddings start as sines and cosines of row and column, and the queries and keys of the early layers
start as rotations of them: each head then looks one fixed step away, as a convolution does ("Convolutional
Initialization for Data-Efficient Vision Transformers", arXiv 2401.12511, gives the idea). Everything stays
trainable and nothing of it is left in the code of the model.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModel
from transformers.models.clip.modeling_clip import CLIPEncoderLayer

# Offsets (rows, columns) of the four heads, layer by layer; layers beyond the list start as usual, at random.
OFFSETS = (
    ((0, 1), (0, -1), (1, 0), (-1, 0)),
    ((1, 1), (-1, -1), (1, -1), (-1, 1)),
    ((0, 1), (0, -1), (1, 0), (-1, 0)),
    ((0, 2), (0, -2), (2, 0), (-2, 0)),
    ((1, 1), (-1, -1), (1, -1), (-1, 1)),
    ((2, 2), (-2, -2), (2, -2), (-2, 2)),
    ((0, 1), (0, -1), (1, 0), (-1, 0)),
)
PEAK_LOGIT = 4.5
"""Attention logit of the patch a head looks at, before training; that of its neighbours is about 2."""


def frequencies(width: int) -> Tensor:
    """[width / 8] angular frequencies (radians per patch): an eighth of the width for the sines of one axis."""
    count = width // 8
    return math.pi * 0.92 * (torch.arange(count) + 0.5) / count


def position_table(rows: int, width: int) -> Tensor:
    """[rows * rows, width] content channels zero, then sines and cosines of the column, then of the row."""
    angle = torch.arange(rows)[:, None] * frequencies(width)
    axis = torch.cat((angle.sin(), angle.cos()), dim=1) * math.sqrt(2)
    table = torch.zeros(rows, rows, width)
    half, quarter = width // 2, width // 4
    table[:, :, half : half + quarter] = axis[None, :, :]
    table[:, :, half + quarter :] = axis[:, None, :]
    return table.reshape(rows * rows, width)


def _offset_query_key(offset: tuple[int, int], width: int, head_width: int, start: int) -> tuple[Tensor, Tensor]:
    """Weights [head_width, width] of a head whose query at patch p matches the key of patch p + offset."""
    omega = frequencies(width)[start::2]
    pairs, half, quarter, count = len(omega), width // 2, width // 4, width // 8
    query, key = torch.zeros(head_width, width), torch.zeros(head_width, width)
    for axis, step in ((0, offset[1]), (1, offset[0])):  # columns first, as in position_table
        for number, frequency in enumerate(omega.tolist()):
            sine = half + axis * quarter + start + 2 * number
            cosine, row = sine + count, 2 * (axis * pairs + number)
            turn = frequency * step
            key[row, sine] = key[row + 1, cosine] = 1.0
            # sin(a + t), cos(a + t) written in sin a, cos a
            query[row, sine], query[row, cosine] = math.cos(turn), math.sin(turn)
            query[row + 1, cosine], query[row + 1, sine] = math.cos(turn), -math.sin(turn)
    scale = math.sqrt(PEAK_LOGIT * math.sqrt(head_width) / (2 * pairs))
    return query * scale, key * scale


def grid_rows(config: CLIPVisionConfig) -> int:
    assert isinstance(config.image_size, int), "square pictures"
    assert isinstance(config.patch_size, int), "square patches"
    return config.image_size // config.patch_size


@torch.no_grad()
def initialise(tower: CLIPVisionModel, seed: int = 0) -> None:
    """Set every weight of a fresh tower, in place."""
    torch.manual_seed(seed)
    config = tower.config
    width, depth = config.hidden_size, config.num_hidden_layers
    embeddings = tower.embeddings
    nn.init.normal_(embeddings.patch_embedding.weight, std=588**-0.5)
    embeddings.patch_embedding.weight[width // 2 :] *= 0.1
    nn.init.normal_(embeddings.class_embedding, std=0.5)
    embeddings.position_embedding.weight.zero_()
    embeddings.position_embedding.weight[1:] = position_table(grid_rows(config), width)
    for number, layer in enumerate(tower.encoder.layers):
        _initialise_layer(layer, number, width, depth, config.num_attention_heads)


def _initialise_layer(layer: nn.Module, number: int, width: int, depth: int, heads: int) -> None:
    assert isinstance(layer, CLIPEncoderLayer), "the stock tower"
    attention, mlp = layer.self_attn, layer.mlp
    for linear in (attention.q_proj, attention.k_proj, attention.v_proj, mlp.fc1):
        nn.init.normal_(linear.weight, std=width**-0.5)
    for linear in (attention.out_proj, mlp.fc2):
        nn.init.normal_(linear.weight, std=(linear.in_features * 2 * depth) ** -0.5 * 1.5)
    for linear in (attention.q_proj, attention.k_proj, attention.v_proj, attention.out_proj, mlp.fc1, mlp.fc2):
        nn.init.zeros_(linear.bias)
    if number < len(OFFSETS):
        head_width = width // heads
        for head, offset in enumerate(OFFSETS[number]):
            query, key = _offset_query_key(offset, width, head_width, start=head % 2)
            rows = slice(head * head_width, (head + 1) * head_width)
            attention.q_proj.weight[rows] = query + 0.02 * torch.randn_like(query)
            attention.k_proj.weight[rows] = key + 0.02 * torch.randn_like(key)
