"""Models whose tiles go through the tower in one batch, and then through a pixel shuffle: squares of patches joined.

Squares (merge groups) are kept or cut whole inside the tower, and a budget counts squares, which is what the language
model reads: it is shared evenly by the tiles of a picture, or by the frames of a video. For the stock shuffle the kept
patches are put back on whole tiles; it then joins whole squares only, and those that were kept go to the projector.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import BatchFeature, PreTrainedModel

from flowcut.criteria.stages import ENCODER, PROJECTOR, Stage
from flowcut.cut import CutConfig, even_shares
from flowcut.encoder.recording import Recording
from flowcut.errors import FlowCutError, InvalidCut
from flowcut.families.family import IMAGE, EncodedMedium, MediaKind
from flowcut.families.grids import removed_after, token_sources
from flowcut.families.llava_build import LlavaBuild
from flowcut.records.vision import Geometry

VIDEO_PIXELS = "pixel_values_videos"
"""What a video's frames are called here; the processors call them `pixel_values`, as those of pictures."""


class PixelShuffle(LlavaBuild):
    """What families share whose projector reads squares of patches that a pixel shuffle joined.

    The frames of a prompt are one video. Handed to `flowcut.prune` by hand, they are to be named `pixel_values_videos`:
    their processors name them as pictures, and each would be taken for one.
    """

    counts_by_picture = True
    merges_patches = True
    one_grid = False
    stages: tuple[Stage, ...] = (ENCODER, PROJECTOR)
    frames = 8

    @abstractmethod
    def merge_side(self, model: PreTrainedModel) -> int:
        """Patches along a side of the squares that become one token."""

    @abstractmethod
    def grid_of_tiles(self, model: PreTrainedModel, pixels: Tensor) -> tuple[int, int, int]:
        """How many tiles the pixels of all media hold, and the rows and columns of patches of each."""

    @abstractmethod
    def tiles_in_prompt(self, ids: Tensor, is_place: Tensor, per_tile: int) -> list[int]:
        """Tiles of each picture of one prompt, int64 [length] and bool [length], where its placeholders are."""

    @abstractmethod
    def tile_tokens(self, model: PreTrainedModel, kind: MediaKind, given: Mapping[str, Any]) -> Tensor:
        """[tiles, tokens, width], all tiles through tower, stock shuffle and projector."""

    @abstractmethod
    def on_whole_tiles(
        self, model: PreTrainedModel, recording: Recording, n_patches: int
    ) -> AbstractContextManager[None]:
        """While inside, the stock shuffle reads whole tiles, pruned patches at zero."""

    @abstractmethod
    def joined_projector(self, model: PreTrainedModel) -> nn.Module:
        """The module that reads [tiles, tokens, width of a square]."""

    def n_patches(self, model: PreTrainedModel) -> int:
        """The most tokens that a picture could be: it has as many as its size asks for, and the prompt must fit."""
        return int(model.config.text_config.max_position_embeddings)

    def named(self, kind: MediaKind, inputs: BatchFeature) -> BatchFeature:
        """A video's frames under a name of their own."""
        if kind.name != "video":
            return inputs
        names = {"pixel_values": VIDEO_PIXELS}
        return BatchFeature({names.get(name, name): value for name, value in inputs.items()})

    def placeholders(self, model: PreTrainedModel, kind: MediaKind, given: Mapping[str, Any]) -> list[int]:
        """As many for each tile of a picture, or frame of a video."""
        per_tile = self._per_tile(model, given[kind.inputs[0]])
        return [count * per_tile for count in self._tiles(model, kind, given)]

    def encode(
        self,
        model: PreTrainedModel,
        recording: Recording,
        kind: MediaKind,
        given: Mapping[str, Any],
        cut: CutConfig | None,
    ) -> list[EncodedMedium]:
        """All tiles of all media in one batch, each cut to its share of the budget."""
        tiles, per_tile = self._tiles(model, kind, given), self._per_tile(model, given[kind.inputs[0]])
        side = self.merge_side(model)
        recording.recut(cut, side)
        shares = [share for count in tiles for share in _shares(cut, count, per_tile, kind)]
        with (
            recording.budgets(shares),
            self.on_whole_tiles(model, recording, per_tile * side**2),
            _kept_alone(self.joined_projector(model), recording, per_tile),
        ):
            tokens = self.tile_tokens(model, kind, given)
        encoded, first = [], 0
        for count in tiles:
            encoded.append(_medium(tokens, recording, range(first, first + count), per_tile))
            first += count
        return encoded

    def notes(self, cut: CutConfig | None) -> tuple[str, ...]:
        """How a budget is shared and met."""
        if cut is None or cut.stage is not ENCODER:
            return ()
        return (
            "Whole squares of patches, which the pixel shuffle joins into one token, are kept or cut by the mean of "
            "their patches' scores.",
            "The budget counts tokens and is shared evenly by a picture's tiles, its thumbnail among them, or by a "
            "video's frames, the first ones taking what cannot be divided.",
        )

    def _per_tile(self, model: PreTrainedModel, pixels: Tensor) -> int:
        """Tokens of an uncut tile."""
        _, rows, cols = self.grid_of_tiles(model, pixels)
        return rows * cols // self.merge_side(model) ** 2

    def _tiles(self, model: PreTrainedModel, kind: MediaKind, given: Mapping[str, Any]) -> list[int]:
        """Tiles of each picture, in the order of the prompts; frames of each video.

        Raises:
            FlowCutError: the prompts do not hold as many placeholders as the tiles need.
        """
        pixels, ids = given[kind.inputs[0]], given["input_ids"]
        count, rows, cols = self.grid_of_tiles(model, pixels)
        per_tile, is_place = rows * cols // self.merge_side(model) ** 2, ids == self.placeholder_id(model, kind)
        found = [
            self.tiles_in_prompt(own, place, per_tile)
            for own, place in zip(ids, is_place, strict=True)
            if bool(place.any())
        ]
        if int(is_place.sum()) != count * per_tile or sum(map(sum, found)) != count:
            raise FlowCutError(
                f"The prompt holds {int(is_place.sum())} image placeholders, and {kind.inputs[0]} {count} tiles that "
                f"need {per_tile} each = {count * per_tile}: take both from the model's own processor."
            )
        return [sum(own) for own in found] if kind.name == "video" else [tiles for own in found for tiles in own]


def kinds(*inputs: str) -> tuple[MediaKind, MediaKind]:
    """Pictures and videos, both read as what the model calls images; `inputs` are what the processor gives with them."""
    kind = partial(MediaKind, beside=("input_ids",), output=IMAGE.name)
    return kind(IMAGE.name, ("pixel_values", *inputs)), kind("video", (VIDEO_PIXELS, *inputs))


def runs(is_place: Tensor) -> list[tuple[int, int]]:
    """Start and end of each run of placeholders in one prompt, bool [length]."""
    edges = nn.functional.pad(is_place.cpu().int(), (1, 1)).diff()
    return list(zip((edges == 1).nonzero()[:, 0].tolist(), (edges == -1).nonzero()[:, 0].tolist(), strict=True))


def stretched(
    size: tuple[int, int], rows: int, cols: int, tile: tuple[int, int], patch: int
) -> tuple[Geometry, ...]:
    """A picture of (width, height) stretched over rows and columns of tiles; behind several, a thumbnail on one tile.

    Args:
        tile: width and height of a tile, px.
    """
    (width, height), (across, down) = size, tile
    one = partial(
        Geometry,
        original_width=width,
        original_height=height,
        input_width=across,
        input_height=down,
        patch=patch,
        grid_rows=down // patch,
        grid_cols=across // patch,
    )
    whole = partial(one, resized_width=across, resized_height=down, crop_left=0, crop_top=0)
    if rows * cols <= 1:
        return (whole(),)
    crops = [
        one(
            resized_width=cols * across,
            resized_height=rows * down,
            crop_left=col * across,
            crop_top=row * down,
            view=f"crop row {row + 1}, column {col + 1}",
        )
        for row in range(rows)
        for col in range(cols)
    ]
    return (*crops, whole(view="thumbnail"))


def _shares(cut: CutConfig | None, tiles: int, per_tile: int, kind: MediaKind) -> list[int]:
    """Tokens that each tile of a picture keeps, or each frame of a video.

    Raises:
        InvalidCut: there are more of them than tokens.
    """
    if cut is None or cut.tokens >= tiles * per_tile:
        return [per_tile] * tiles
    if kind.name == "video":
        return even_shares(cut.tokens, tiles, "frames")
    if cut.tokens < tiles:
        raise InvalidCut(
            f"tokens is {cut.tokens}, which leaves nothing for each of a picture's {tiles} tiles: choose at least "
            f"{tiles}."
        )
    return even_shares(cut.tokens, tiles, "tiles")


def _medium(tokens: Tensor, recording: Recording, rows: Sequence[int], per_tile: int) -> EncodedMedium:
    """One picture or video, of the record's rows, from [tiles, tokens, width], where the cut ones are zeros."""
    groups, sources = recording.kept_groups, token_sources(recording)
    features = torch.cat([tokens[row, groups[row]] for row in rows])
    places = torch.cat([groups[row] + place * per_tile for place, row in enumerate(rows)])
    patches = torch.cat([sources[row] for row in rows])
    shares = torch.full(patches.shape[:2], 1 / patches.shape[1], device=patches.device)
    return EncodedMedium(features, places, patches, shares)


@contextmanager
def _kept_alone(projector: nn.Module, recording: Recording, per_tile: int) -> Iterator[None]:
    """While inside, the projector reads the tokens kept in the tower alone; the others come out of it as zeros."""

    def cut(groups: list[Tensor]) -> bool:
        return any(len(own) < per_tile for own in groups)

    def before(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        groups = recording.kept_groups
        if not cut(groups):
            return None
        kept = torch.cat([tile[own] for tile, own in zip(args[0], groups, strict=True)])
        return (kept[None], *args[1:])

    def after(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
        groups = recording.kept_groups
        if not cut(groups):
            return None
        whole = output.new_zeros(len(groups), per_tile, output.shape[-1])
        for tile, own, tokens in zip(whole, groups, output[0].split([len(own) for own in groups]), strict=True):
            tile[own] = tokens
        return whole

    with ExitStack() as undo:
        undo.enter_context(removed_after(projector.register_forward_pre_hook(before)))
        undo.enter_context(removed_after(projector.register_forward_hook(after)))
        yield
