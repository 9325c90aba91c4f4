"""Kept patches back on full grids, where stock code lays out or pools patches by their place."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from flowcut.encoder.recording import Recording


@contextmanager
def input_on_whole_grids(module: nn.Module, recording: Recording, n_patches: int) -> Iterator[None]:
    """While inside, what enters `module` is a full grid for each row of the last pass, pruned patches at zero."""

    def before(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (on_whole_grids(args[0], recording.kept, n_patches), *args[1:])

    with removed_after(module.register_forward_pre_hook(before)):
        yield


@contextmanager
def output_on_whole_grids(module: nn.Module, recording: Recording, n_patches: int) -> Iterator[None]:
    """While inside, what leaves `module` is a full grid for each row of the last pass, pruned patches at zero."""

    def after(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        return on_whole_grids(output, recording.kept, n_patches)

    with removed_after(module.register_forward_hook(after)):
        yield


def on_whole_grids(features: Tensor, kept: Sequence[Tensor], n_patches: int) -> Tensor:
    """[rows, n_patches, width] from [rows, longest, width], row r holding the patches `kept[r]`; itself if all."""
    if all(len(ids) == n_patches for ids in kept):
        return features
    whole = features.new_zeros(len(features), n_patches, features.shape[-1])
    for row, ids in enumerate(kept):
        whole[row, ids] = features[row, : len(ids)]
    return whole


def token_sources(recording: Recording) -> list[Tensor]:
    """Per row of the pass just finished int64 [tokens, patches per token, 2]: the row, and each token's patches."""
    patches = enumerate(recording.token_patches)
    return [torch.stack([torch.full_like(own, row), own], dim=-1) for row, own in patches]


@contextmanager
def removed_after(hook: Any) -> Iterator[None]:
    """While inside, a hook is in force that is removed on leaving."""
    try:
        yield
    finally:
        hook.remove()
