"""A vision encoder that is not read: it runs as it is, and nothing is known of what happens inside it.

It stands where a `Recording` does for encoders that are read, and says the same things as far as they are known.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from types import MappingProxyType, TracebackType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from flowcut.hooks.attention import Attention
from flowcut.hooks.elsewhere import Elsewhere
from flowcut.hooks.model_facts import model_facts
from flowcut.records.unread import NO_PLACES
from flowcut.records.vision import PADDING_ID, FlowRecord, Geometry


@dataclass(frozen=True, eq=False)
class UnreadEncoder:
    """The module that is not read."""

    model: nn.Module


class Unrecorded:
    """A `with` in which a vision encoder that is not read encodes pictures; `record` says how many tokens came out."""

    remarks: tuple[str, ...] = ()
    attended_pairs: tuple[int, ...] = ()
    shown: tuple[Mapping[str, np.ndarray], ...] = (MappingProxyType({}),)
    """Nothing is known of its attention."""
    ranking: np.ndarray | None = None

    def __init__(self, tower: nn.Module, model: PreTrainedModel, reason: str, facts: dict[str, Any]) -> None:
        """
        Args:
            tower: the encoder, or as much of it as is known.
            model: the whole model.
            reason: why it is not read, one sentence.
            facts: as for `Recording`.
        """
        self.encoder = UnreadEncoder(tower)
        self.model = model
        self.reason = reason
        self.facts = facts
        self.seconds = {"scoring": 0.0, "recording": 0.0}
        self.operations = 0.0
        """Floating-point operations of the last pass, in linear layers and convolutions."""
        self.elsewhere = Elsewhere("vision encoder")
        self._counts: list[int] = []
        self._token_grid: tuple[int, int] | None = None
        self._open = False

    def __enter__(self) -> Unrecorded:
        self._open = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open = False

    @property
    def in_force(self) -> bool:
        """Whether the `with` was entered and not yet left."""
        return self._open

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the first prompt's tokens; one row where it is not known how they lie."""
        return self._token_grid or (1, self._counts[0] if self._counts else 0)

    def passed(self, counts: list[int], token_grid: tuple[int, int] | None, operations: float) -> None:
        """Pictures went through: how many tokens each prompt got, and rows and columns where they are one grid."""
        self._counts, self._token_grid, self.operations = counts, token_grid, operations

    @property
    def record(self) -> FlowRecord:
        """One row for each prompt with pictures, all of its tokens kept; no layers."""
        longest = max(self._counts, default=0)
        ids = np.full((len(self._counts), longest), PADDING_ID)
        for row, count in enumerate(self._counts):
            ids[row, :count] = np.arange(count)
        geometries = self._geometries()
        notes = (*self.facts.get("notes", ()), *(() if geometries or not self._counts else (NO_PLACES,)))
        return FlowRecord(
            layers=(),
            steps=(),
            kept_patch_ids=ids,
            pruned_at_layer=np.where(ids == PADDING_ID, PADDING_ID, -1),
            n_patches=longest,
            n_layers=0,
            n_heads=0,
            feature_layer=-1,
            cut=None,
            relay="none",
            unread=self.reason,
            **{**model_facts(self.model), **self.facts, "notes": notes, "geometries": geometries},
        )

    def describe(self, **facts: Any) -> None:
        """Add to the record what only the caller knows: geometry of the whole picture, notes, model_id."""
        self.facts.update(facts)

    def watched_by_others(self) -> bool:
        """No thread has a recording of an encoder that is not read."""
        return False

    def watches(self, module: nn.Module) -> bool:
        """Its attention is not looked at."""
        return False

    def attend(
        self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, scaling: float, attention: Attention
    ) -> Tensor:
        """The model's own attention."""
        return attention(query, key, value)

    def _geometries(self) -> tuple[Geometry, ...]:
        """Where the tokens of one picture lie, each a square of one unit; empty where that is not known."""
        whole: tuple[Geometry, ...] = self.facts.get("geometries", ())
        if self._token_grid is None or len(whole) != 1:
            return ()
        rows, cols = self._token_grid
        across: dict[str, Any] = {"resized_width": cols, "input_width": cols, "grid_cols": cols}
        down: dict[str, Any] = {"resized_height": rows, "input_height": rows, "grid_rows": rows}
        return (replace(whole[0], patch=1, **across, **down),)


@contextmanager
def counted_operations(model: nn.Module) -> Iterator[list[float]]:
    """While inside, the floating-point operations of every linear layer and convolution that runs, one entry each."""
    found: list[float] = []

    def count(module: Any, args: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            weight = module.in_features * module.out_features if hasattr(module, "in_features") else None
            outputs = module.out_features if hasattr(module, "out_features") else module.out_channels
            found.append(2.0 * (weight or module.weight.numel()) * output.numel() / outputs)

    convolutions = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
    with ExitStack() as undo:
        for part in model.modules():
            if isinstance(part, convolutions) or (hasattr(part, "in_features") and hasattr(part, "out_features")):
                undo.callback(part.register_forward_hook(count).remove)
        yield found


def token_grid(config: Any, given: dict[str, Any], n_tokens: int) -> tuple[int, int] | None:
    """Rows and columns of one picture's tokens, where its own inputs and the configuration say so; None: they do not.

    Args:
        config: the model's.
        given: what the processor gave for the pictures.
        n_tokens: how many tokens they became.
    """
    vision = getattr(config, "vision_config", None)
    patch = getattr(vision, "patch_size", None)
    sides = {1, *_merged_sides(config), *_merged_sides(vision)}
    found = [_divided(size, side) for size in _patch_rows_and_columns(given, patch) for side in sides]
    fitting = {grid for grid in found if grid is not None and math.prod(grid) == n_tokens}
    return fitting.pop() if len(fitting) == 1 else None


def _patch_rows_and_columns(given: dict[str, Any], patch: Any) -> list[tuple[int, int]]:
    """Rows and columns of patches, if there is one picture in one piece."""
    grid, sizes = given.get("image_grid_thw"), given.get("image_sizes")
    if grid is not None:
        return [(int(grid[0][1]), int(grid[0][2]))] if len(grid) == 1 and int(grid[0][0]) == 1 else []
    if not isinstance(patch, int):
        return []
    if sizes is not None:
        return [(int(sizes[0][0]) // patch, int(sizes[0][1]) // patch)] if len(sizes) == 1 else []
    pixels = given.get("pixel_values")
    if not isinstance(pixels, torch.Tensor) or pixels.ndim < 4 or math.prod(pixels.shape[:-3]) != 1:
        return []
    return [(pixels.shape[-2] // patch, pixels.shape[-1] // patch)]


def _merged_sides(config: Any) -> list[int]:
    """Patches along the side of the squares that become one token, as a configuration may name them."""
    named = [getattr(config, name, None) for name in ("spatial_merge_size", "downsample_factor", "scale_factor")]
    return [value for value in named if isinstance(value, int)]


def _divided(size: tuple[int, int], side: int) -> tuple[int, int] | None:
    return None if side < 1 or size[0] % side or size[1] % side else (size[0] // side, size[1] // side)
