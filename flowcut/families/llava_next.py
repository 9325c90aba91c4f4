"""LLaVA-NeXT: a picture is a base tile and a grid of crops; FlowCut prunes each tile, then once more in the decoder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.models.llava_next.modeling_llava_next import image_size_to_num_patches

from flowcut.criteria.stages import DECODER, ENCODER, Stage
from flowcut.cut import CutConfig
from flowcut.encoder.recording import Recording
from flowcut.errors import FlowCutError, InvalidCut
from flowcut.families.anyres import tile_geometries
from flowcut.families.clip_llava import ClipLlava
from flowcut.families.family import SEPARATOR, EncodedMedium, MediaKind
from flowcut.families.grids import output_on_whole_grids
from flowcut.published import PUBLISHED
from flowcut.records.vision import Geometry


class LlavaNext(ClipLlava):
    """The family of `LlavaNextForConditionalGeneration`."""

    name = "LLaVA-NeXT"
    model_class = "LlavaNextForConditionalGeneration"
    description = "LLaVA-NeXT (LlavaNextForConditionalGeneration with a CLIP vision tower)"
    published = PUBLISHED["llava_next"]
    media: tuple[MediaKind, ...] = (MediaKind("image", ("pixel_values", "image_sizes")),)
    language_layer: int | None = 1
    stages: tuple[Stage, ...] = (ENCODER, DECODER)
    one_grid = False

    def n_patches(self, model: PreTrainedModel) -> int:
        """Patches of the base tile and of as many crops as the widest grid has."""
        side = model.config.vision_config.image_size
        crops: int = max((height // side) * (width // side) for height, width in model.config.image_grid_pinpoints)
        return (1 + crops) * self._tile_patches(model)

    def placeholders(self, model: PreTrainedModel, kind: MediaKind, given: Mapping[str, Any]) -> list[int]:
        """As many as the stock layout makes of a picture of this size."""
        self._check_tiles(model, given)
        return [len(layout) for layout in self._layout(model, torch.as_tensor(given["image_sizes"]))]

    def encode(
        self,
        model: PreTrainedModel,
        recording: Recording,
        kind: MediaKind,
        given: Mapping[str, Any],
        cut: CutConfig | None,
    ) -> list[EncodedMedium]:
        """Every tile through the tower: those of all pictures in one batch, as released, or picture by picture."""
        sizes = torch.as_tensor(given["image_sizes"])
        tiles = _tiles(model, sizes)
        pixels = _tile_pixels(given["pixel_values"], tiles)
        as_released = cut is None or (cut.variant == "official" and cut.by_flowcut and not cut.per_image)
        coupled = as_released or _cuts_nothing(cut, max(tiles), self._tile_patches(model))
        everything = list(range(len(tiles)))
        groups = [everything] if coupled else [[index] for index in everything]
        encoded: list[EncodedMedium] = []
        with recording.together():
            for group in groups:
                recording.recut(_tile_cut(cut, max(tiles[index] for index in group)))
                row = sum(tiles[: group[0]])
                taken = torch.cat([pixels[index] for index in group])
                encoded += self._encode_group(model, recording, taken, sizes[group], cut, row)
        return encoded

    def geometries(self, model: PreTrainedModel, image_processor: Any, size: tuple[int, int]) -> tuple[Geometry, ...]:
        """The base tile, then the crops row by row."""
        return tile_geometries(model, image_processor, size)

    def notes(self, cut: CutConfig | None) -> tuple[str, ...]:
        """How a budget is shared out between the stages."""
        if cut is None:
            return ()
        if not cut.by_flowcut:
            return ("The budget is shared evenly by a picture's tiles; padding and newline tokens take no part in it.",)
        share = "half the budget" if cut.variant == "official" else "an even share of twice the budget"
        newlines = "newline tokens are left out" if cut.variant == "official" else "newline tokens stay"
        return (f"Each tile keeps {share}, {newlines}; the decoder's layer 1 then keeps the budget.",)

    def _tile_patches(self, model: PreTrainedModel) -> int:
        """Patches of one tile."""
        return super().n_patches(model)

    def _check_tiles(self, model: PreTrainedModel, given: Mapping[str, Any]) -> None:
        if given.get("image_sizes") is None:
            raise FlowCutError("image_sizes is missing beside pixel_values: hand over all that the processor gave.")
        wanted, pixels = _tiles(model, torch.as_tensor(given["image_sizes"])), given["pixel_values"]
        fits = len(pixels) == sum(wanted) if pixels.ndim == 4 else len(pixels) == len(wanted)
        if not fits or (pixels.ndim == 5 and pixels.shape[1] < max(wanted)):
            raise FlowCutError(
                f"pixel_values has the shape {tuple(pixels.shape)} and pictures of these sizes need {wanted} tiles: "
                "take both from one processor, with the model's own image_grid_pinpoints."
            )

    def _encode_group(
        self,
        model: PreTrainedModel,
        recording: Recording,
        pixels: Tensor,
        sizes: Tensor,
        cut: CutConfig | None,
        first_row: int,
    ) -> list[EncodedMedium]:
        """One pass: kept patches scattered on full tiles, laid out by the stock code, and the kept places read off."""
        n_patches = self._tile_patches(model)
        parts: Any = model
        with output_on_whole_grids(self.projector(model), recording, n_patches):
            laid_out = parts.get_image_features(pixel_values=pixels, image_sizes=sizes, return_dict=True).pooler_output
        kept = recording.kept_patch_ids
        kept_places = (kept + torch.arange(len(kept), device=kept.device)[:, None] * n_patches).flatten()
        tiles, start, encoded = _tiles(model, sizes), 0, []
        for features, layout, count in zip(laid_out, self._layout(model, sizes), tiles, strict=True):
            layout = torch.where(layout == SEPARATOR, SEPARATOR, layout + start * n_patches).to(kept.device)
            separator = layout == SEPARATOR
            live = torch.isin(layout, kept_places) | (separator & _keeps_separators(cut, count, n_patches))
            source = torch.stack([layout // n_patches + first_row, layout % n_patches], dim=-1)
            source[separator] = SEPARATOR
            encoded.append(EncodedMedium.of_patches(features[live], live.nonzero()[:, 0], source[live]))
            start += count
        return encoded

    def _layout(self, model: PreTrainedModel, sizes: Tensor) -> list[Tensor]:
        """Per picture int64 [n]: the patch, counted through its tiles, that the stock code packs at each place."""
        n_patches = self._tile_patches(model)
        numbers = [torch.arange(count * n_patches).view(count, n_patches, 1) for count in _tiles(model, sizes)]
        strategy = model.config.vision_feature_select_strategy
        pack: Any = model.pack_image_features
        packed, _ = pack(numbers, sizes, strategy, image_newline=torch.tensor([SEPARATOR]))
        return [places[:, 0] for places in packed]


def _tiles(model: PreTrainedModel, sizes: Tensor) -> list[int]:
    """Tiles of each picture of (height, width), the base among them."""
    config = model.config
    side = config.vision_config.image_size
    return [image_size_to_num_patches(size, config.image_grid_pinpoints, side) for size in sizes]


def _tile_pixels(pixels: Tensor, tiles: list[int]) -> list[Tensor]:
    """Per picture [tiles, 3, H, W], from all tiles in one row or from pictures padded to the most tiles."""
    if pixels.ndim == 4:
        return list(pixels.split(tiles))
    return [picture[:count] for picture, count in zip(pixels, tiles, strict=True)]


def _tile_cut(cut: CutConfig | None, tiles: int) -> CutConfig | None:
    """What each tile of a picture keeps in the tower."""
    if cut is None:
        return None
    if not cut.by_flowcut:
        each, least = cut.tokens // tiles, tiles
    elif cut.variant == "official":
        each, least = cut.tokens // 2, 2
    else:
        each, least = 2 * cut.tokens // tiles, (tiles + 1) // 2
    if each < 1:
        raise InvalidCut(
            f"tokens is {cut.tokens}, which leaves nothing for each of a picture's {tiles} tiles: choose at least "
            f"{least}."
        )
    return replace(cut, tokens=each, per_image=False)


def _cuts_nothing(cut: CutConfig | None, tiles: int, n_patches: int) -> bool:
    """Whether a picture of so many tiles has no more patches than the budget."""
    return cut is None or cut.tokens >= tiles * n_patches


def _keeps_separators(cut: CutConfig | None, tiles: int, n_patches: int) -> bool:
    """Newline tokens go with a cut as released and with the controls; a budget that cuts nothing leaves them."""
    if cut is None or tiles == 1 or _cuts_nothing(cut, tiles, n_patches):
        return True
    return cut.by_flowcut and cut.variant == "paper"
