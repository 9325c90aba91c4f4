"""LLaVA-OneVision: a SigLIP tower over a base tile and crops, whose grid is unpadded, pooled, and ends its rows with
newline tokens.

A pooled token is a bilinear mix of up to four patches. A budget counts what the language model reads: tokens made of
patches, newline tokens aside. Where a share q of them is requested, each tile keeps sqrt(q) of its patches in the
tower; of the tokens laid out from these, the T of highest score stay. There is no released code for this family.

The stock layout code does all laying out: run on the features with pruned patches at zero it gives the tokens, run on
numbers that say which patch is where it says what each token is made of.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.image_processing_utils import select_best_resolution
from transformers.models.llava_onevision.modeling_llava_onevision import image_size_to_num_patches

from flowcut.criteria.stages import ENCODER, Stage
from flowcut.cut import CutConfig, even_shares
from flowcut.encoder.recording import Recording
from flowcut.errors import FlowCutError
from flowcut.families.anyres import tile_geometries
from flowcut.families.family import SEPARATOR, EncodedMedium, MediaKind
from flowcut.families.frames import VIDEOS, frames_of
from flowcut.families.grids import output_on_whole_grids
from flowcut.families.llava_build import LlavaBuild
from flowcut.families.pooled import KEPT, NEWLINE, best_tokens, kept_rows, mean_of_kept, source_patches_of
from flowcut.published import PUBLISHED
from flowcut.records.vision import Geometry


class LlavaOnevision(LlavaBuild):
    """The family of `LlavaOnevisionForConditionalGeneration`."""

    name = "LLaVA-OneVision"
    model_class = "LlavaOnevisionForConditionalGeneration"
    towers: tuple[str, ...] = ("siglip_vision_model",)
    description = "LLaVA-OneVision (LlavaOnevisionForConditionalGeneration with a SigLIP vision tower)"
    published = PUBLISHED["llava_onevision"]
    media: tuple[MediaKind, ...] = (
        MediaKind("image", ("pixel_values", "image_sizes", "batch_num_images")),
        VIDEOS,
    )
    processor_class: str | None = "LlavaOnevisionProcessor"
    counts_by_picture = True
    stages: tuple[Stage, ...] = (ENCODER,)
    one_grid = False
    frames = 8
    most_frames = 32

    def complete_processor(self, processor: Any, model: PreTrainedModel) -> None:
        """Say to a processor what it needs to count placeholders."""
        processor.num_image_tokens = self._tile_patches(model)
        processor.vision_feature_select_strategy = model.config.vision_feature_select_strategy
        processor.vision_aspect_ratio = model.config.vision_aspect_ratio

    def n_patches(self, model: PreTrainedModel) -> int:
        """The most tokens that a picture could be: the prompt must fit."""
        return int(model.config.text_config.max_position_embeddings)

    def geometries(self, model: PreTrainedModel, image_processor: Any, size: tuple[int, int]) -> tuple[Geometry, ...]:
        """The base tile, then the crops row by row."""
        return tile_geometries(model, image_processor, size)

    def placeholders(self, model: PreTrainedModel, kind: MediaKind, given: Mapping[str, Any]) -> list[int]:
        """As many as the stock layout makes of a picture of this size; of a video its pooled frames and a newline.

        Raises:
            FlowCutError: sizes are missing, or the model drops a patch as if it were CLS.
        """
        if model.config.vision_feature_select_strategy != "full":
            raise FlowCutError(
                "This model's vision_feature_select_strategy drops a patch as if it were CLS, which SigLIP towers do "
                "not have: set it to 'full' in config.json."
            )
        if kind is VIDEOS:
            videos, frames = frames_of(given[VIDEOS.inputs[0]])
            return [frames * self._frame_tokens(model) + 1] * videos
        if given.get("image_sizes") is None:
            raise FlowCutError("image_sizes is missing beside pixel_values: hand over all that the processor gave.")
        sizes, pixels, most = given["image_sizes"], given["pixel_values"], max(self._tiles(model, given))
        if pixels.ndim != 5 or len(pixels) != len(sizes) or pixels.shape[1] < most:
            raise FlowCutError(
                f"pixel_values has the shape {tuple(pixels.shape)}, and pictures of these sizes need up to {most} "
                "tiles: take both from one processor, with the model's own image_grid_pinpoints."
            )
        return [len(layout) for layout in self._whole_layout(model, sizes, self._tiles(model, given))]

    def encode(
        self,
        model: PreTrainedModel,
        recording: Recording,
        kind: MediaKind,
        given: Mapping[str, Any],
        cut: CutConfig | None,
    ) -> list[EncodedMedium]:
        """All tiles of all pictures in one batch, each cut to its share; then the best tokens of each picture."""
        if kind is VIDEOS:
            return self._encode_videos(model, recording, given[VIDEOS.inputs[0]], cut)
        sizes, tiles, n_patches = given["image_sizes"], self._tiles(model, given), self._tile_patches(model)
        whole = self._whole_layout(model, sizes, tiles)
        counts = [int((layout[:, KEPT] != NEWLINE).sum()) for layout in whole]
        shares = [_tile_share(count if cut is None else cut.tokens, count, n_patches) for count in counts]
        with recording.budgets([share for share, count in zip(shares, tiles, strict=True) for _ in range(count)]):
            laid_out = self._laid_out(model, recording, given)
        kept, score = kept_rows(recording, n_patches)
        layouts = self._layout(model, sizes, tiles, kept, kept if score is None else score)
        encoded, first = [], 0
        for place, (found, layout, count) in enumerate(zip(laid_out, layouts, counts, strict=True)):
            chosen = torch.arange(len(layout))
            if cut is not None and cut.tokens < count:
                chosen = best_tokens(layout, cut.tokens, score is not None).nonzero()[:, 0]
            mended, layout = mean_of_kept(found, layout)[chosen.to(found.device)], layout[chosen]
            made_of = source_patches_of(layout, kept, first, self._side(model), self._crop_columns(model, sizes[place]))
            encoded.append(EncodedMedium(mended, chosen, *made_of))
            first += tiles[place]
        return encoded

    def _encode_videos(
        self, model: PreTrainedModel, recording: Recording, pixels: Tensor, cut: CutConfig | None
    ) -> list[EncodedMedium]:
        """All frames of all videos in one batch; then the best pooled tokens of each frame, its share of the budget."""
        parts, n_patches, per_frame = cast(Any, model), self._tile_patches(model), self._frame_tokens(model)
        videos, frames = frames_of(pixels)
        whole = cut is None or cut.tokens >= frames * per_frame
        shares = [per_frame] * frames if cut is None or whole else even_shares(cut.tokens, frames, "frames")
        in_tower = [_tile_share(share, per_frame, n_patches) for share in shares] * videos
        with recording.budgets(in_tower), output_on_whole_grids(self.projector(model), recording, n_patches):
            pooled = parts.model.get_video_features(pixel_values_videos=pixels, return_dict=True).pooler_output
        kept, score = kept_rows(recording, n_patches)
        layouts = self._frame_layouts(model, kept, kept if score is None else score)
        encoded = []
        for video, tokens in enumerate(pooled):
            rows = range(video * frames, (video + 1) * frames)
            chosen = [
                best_tokens(layouts[row], share, score is not None) if share < per_frame else layouts[row, :, KEPT] > 0
                for row, share in zip(rows, shares, strict=True)
            ]
            encoded.append(self._video(tokens, layouts[rows.start : rows.stop], kept, rows, chosen, newline=whole))
        return encoded

    def _video(
        self, tokens: Tensor, layouts: Tensor, kept: Tensor, rows: range, chosen: list[Tensor], newline: bool
    ) -> EncodedMedium:
        """One video from its pooled tokens [frames * tokens of a frame + 1, width], the newline last."""
        side = math.isqrt(kept.shape[1])
        made_of = [
            source_patches_of(layout[keep], kept, row, side, 1)
            for layout, keep, row in zip(layouts, chosen, rows, strict=True)
        ]
        patches, shares = (torch.cat(part) for part in zip(*made_of, strict=True))
        places = torch.cat(chosen).nonzero()[:, 0]
        features = mean_of_kept(tokens[:-1], layouts.flatten(0, 1))[places.to(tokens.device)]
        if newline:
            places = torch.cat([places, torch.tensor([len(tokens) - 1])])
            features = torch.cat([features, tokens[-1:]])
            patches = torch.cat([patches, torch.full_like(patches[:1], SEPARATOR)])
            shares = torch.cat([shares, torch.zeros_like(shares[:1])])
        return EncodedMedium(features, places, patches, shares)

    def notes(self, cut: CutConfig | None) -> tuple[str, ...]:
        """How a budget is met."""
        if cut is None:
            return ()
        return (
            "The patches kept are those that left the tower; of the tokens laid out and pooled from them, those of the "
            "highest score go to the language model, as many as the budget, and newline tokens between rows are left "
            "out.",
        )

    def _laid_out(self, model: PreTrainedModel, recording: Recording, given: Mapping[str, Any]) -> list[Tensor]:
        """Per picture [n, width]: kept patches on full tiles, pruned ones at zero, as the stock code lays them out."""
        parts = cast(Any, model)
        with output_on_whole_grids(self.projector(model), recording, self._tile_patches(model)):
            laid_out: list[Tensor] = parts.get_image_features(**given, return_dict=True).pooler_output
        return laid_out

    def _whole_layout(self, model: PreTrainedModel, sizes: Tensor, tiles: list[int]) -> list[Tensor]:
        """The layout of uncut pictures."""
        everything = torch.ones(sum(tiles), self._tile_patches(model), dtype=torch.float32)
        return self._layout(model, sizes, tiles, everything, everything)

    def _layout(
        self, model: PreTrainedModel, sizes: Tensor, tiles: list[int], kept: Tensor, score: Tensor
    ) -> list[Tensor]:
        """Per picture float32 [n, 5], the numbers of `KEPT` ... `BASE` as the stock code packs and pools them.

        Args:
            kept, score: float32 [tiles of all pictures, patches of a tile]; a pruned patch's score does not count.
        """
        side = self._side(model)
        numbers, first = [], 0
        for count, size in zip(tiles, sizes, strict=True):
            across = self._crop_columns(model, size)
            tile, row, column = torch.meshgrid(*(torch.arange(n) for n in (count, side, side)), indexing="ij")
            base = tile == 0
            row = torch.where(base, row, row + (tile - 1) // across * side)
            column = torch.where(base, column, column + (tile - 1) % across * side)
            here = slice(first, first + count)
            columns = [kept[here], kept[here] * score[here], *(part.flatten(1) for part in (row, column, base))]
            numbers.append(torch.stack([part.float() for part in columns], dim=-1))
            first += count
        pack: Any = model.model.pack_image_features
        newline = torch.full((5,), NEWLINE, dtype=torch.float32)
        ratio = model.config.vision_aspect_ratio
        packed: list[Tensor] = pack(numbers, sizes.cpu(), image_newline=newline, vision_aspect_ratio=ratio)[0]
        return packed

    def _frame_layouts(self, model: PreTrainedModel, kept: Tensor, score: Tensor) -> Tensor:
        """float32 [frames, tokens of a frame, 5], the numbers of `KEPT` ... `BASE` as the stock code pools them."""
        side = self._side(model)
        row, column = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
        places = [part.flatten().float().expand_as(kept) for part in (row, column, torch.ones_like(row))]
        pool: Any = cast(Any, model).model.apply_pooling
        pooled: Tensor = pool(torch.stack([kept, kept * score, *places], dim=-1))
        return pooled

    def _frame_tokens(self, model: PreTrainedModel) -> int:
        """Tokens of an uncut frame, without the newline after the last one."""
        pooled = cast(Any, model).model.apply_pooling(torch.empty(1, self._tile_patches(model), 1))
        return int(pooled.shape[1])

    def _tiles(self, model: PreTrainedModel, given: Mapping[str, Any]) -> list[int]:
        """Tiles of each picture, the base among them; pictures that share a prompt have that alone."""
        sizes, batch_num_images = given["image_sizes"], given.get("batch_num_images")
        if batch_num_images is None:
            alone = [True] * len(sizes)
        else:
            alone = [int(count) == 1 for count in batch_num_images for _ in range(int(count))]
        config = model.config
        side = config.vision_config.image_size
        pinpoints = config.image_grid_pinpoints
        pairs = zip(sizes.tolist(), alone, strict=True)
        return [image_size_to_num_patches(size, pinpoints, side) if single else 1 for size, single in pairs]

    def _crop_columns(self, model: PreTrainedModel, size: Tensor) -> int:
        """Crops in a row of a picture of (height, width)."""
        _, width = select_best_resolution(tuple(size.tolist()), model.config.image_grid_pinpoints)
        return int(width // model.config.vision_config.image_size)

    def _side(self, model: PreTrainedModel) -> int:
        """Patches along a side of a tile."""
        vision = model.config.vision_config
        return int(vision.image_size // vision.patch_size)

    def _tile_patches(self, model: PreTrainedModel) -> int:
        return self._side(model) ** 2


def _tile_share(tokens: int, count: int, n_patches: int) -> int:
    """Patches that each tile keeps in the tower, of which `tokens` of `count` are to be made: between all and that."""
    if tokens >= count:
        return n_patches
    return max(int(n_patches * math.sqrt(tokens / count)), 1)
