"""Cuts outside the vision encoder, and what is left in the end whatever the stage: patches and their ranking."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from flowcut.criteria import METHODS, Evidence, highest
from flowcut.criteria.controls import coarse_grid
from flowcut.criteria.evidence import by_removal
from flowcut.criteria.stages import ENCODER, PICTURE
from flowcut.cut import CutConfig, stage_of
from flowcut.errors import InvalidCut
from flowcut.families.family import SEPARATOR, EncodedMedium
from flowcut.records.vision import PADDING_ID, Geometry


def in_the_encoder(cut: CutConfig | None) -> CutConfig | None:
    """The cut if it is made in the vision encoder; else None."""
    return cut if stage_of(cut) is ENCODER else None


@dataclass(frozen=True)
class Coarser:
    """A picture scaled down to a coarser grid of patches."""

    rows: int
    cols: int
    full_rows: int
    full_cols: int

    def scaled(self, pixels: Tensor) -> Tensor:
        """[B, 3, rows * patch, cols * patch] from [B, 3, H, W] at the full grid; bicubic, with antialias."""
        height, width = pixels.shape[-2:]
        size = (height // self.full_rows * self.rows, width // self.full_cols * self.cols)
        small = nn.functional.interpolate(pixels.float(), size=size, mode="bicubic", antialias=True)
        return small.to(pixels.dtype)

    def geometry(self, full: Geometry) -> Geometry:
        """Where the coarser patches lie on the original picture; its resized size need not be whole pixels."""
        across, down = self.cols / self.full_cols, self.rows / self.full_rows
        return replace(
            full,
            resized_width=full.resized_width * across,
            resized_height=full.resized_height * down,
            crop_left=full.crop_left * across,
            crop_top=full.crop_top * down,
            input_width=self.cols * full.patch,
            input_height=self.rows * full.patch,
            grid_rows=self.rows,
            grid_cols=self.cols,
        )

    def note(self, tokens: int) -> str:
        """What a reader must know of it."""
        grid = f"{self.rows} x {self.cols} patches"
        count = self.rows * self.cols
        short = "" if count == tokens else f", {count} for the {tokens} asked for, which are no grid that fits"
        return f"The picture was scaled down to {grid}{short}; the encoder's position embeddings are interpolated."


def coarser(cut: CutConfig | None, pictures: Mapping[str, Any], patch: int) -> Coarser | None:
    """The grid that `downsample` scales these pictures to; None: another method, or nothing to cut.

    Args:
        pictures: what the processor gave, `pixel_values` [B, 3, H, W] among it.
        patch: side of a patch, px.

    Raises:
        InvalidCut: it is a video, or the pictures come in another way.
    """
    if cut is None or stage_of(cut) is not PICTURE:
        return None
    if "pixel_values" not in pictures:
        raise InvalidCut(f"The method {cut.method!r} scales single pictures down: choose another one for a video.")
    rows, cols = (side // patch for side in pictures["pixel_values"].shape[-2:])
    if cut.tokens >= rows * cols:
        return None
    return Coarser(*coarse_grid(rows, cols, cut.tokens), rows, cols)


def behind_the_projector(medium: EncodedMedium, cut: CutConfig) -> tuple[EncodedMedium, np.ndarray | None]:
    """A medium's tokens that a method of this stage keeps, and its ranking of the patches, float64 [N], row by row;
    None where nothing is cut.

    Tokens that are no patch, such as a CLS token, are no candidates and stay.
    """
    method = METHODS[cut.method]
    is_patch = medium.sources[:, 0] != SEPARATOR
    places = is_patch.nonzero()[:, 0]
    if len(places) <= cut.tokens:
        return medium, None
    evidence = Evidence(1, len(places), features=medium.features[places].detach().double().cpu().numpy()[None])
    ranking = method.ranking(evidence, cut)
    stays = ~is_patch
    stays[places[torch.from_numpy(highest(ranking, cut.tokens)[0]).to(places.device)]] = True
    return medium.kept(stays), by_patch(ranking[0], medium.source_patches[places].cpu().numpy())


def by_patch(ranking: np.ndarray, sources: np.ndarray) -> np.ndarray:
    """float64 [n k], each token's rank at each of its k source patches, int64 [n, k, 2]: row by row, patch by patch."""
    row, patch = sources.reshape(-1, 2).T
    spread: np.ndarray = np.repeat(ranking, sources.shape[1])[np.lexsort((patch, row))]
    return spread


def leading_separators(medium: EncodedMedium) -> int:
    """Tokens before a medium's first patch, such as a CLS token: no cut in the language model counts them."""
    return int((medium.sources[:, 0] != SEPARATOR).nonzero()[0])


def ranking_of_first_row(
    in_encoder: np.ndarray | None, in_decoder: np.ndarray | None, sources: np.ndarray, n_patches: int
) -> np.ndarray | None:
    """float32 [N], the ranking of the first row's patches from those of both stages; None where neither ranked any.

    Args:
        in_encoder: float64 [N], what the vision encoder ranked its patches by.
        in_decoder: float [n], what the language model ranked the first picture's tokens by.
        sources: int64 [n, k, 2], row and patch of each of the patches that these tokens are.
        n_patches: N.
    """
    if in_decoder is None:
        return None if in_encoder is None else in_encoder.astype(np.float32)
    own, ranked = sources[..., 0] == 0, np.broadcast_to(in_decoder[:, None], sources.shape[:2])
    reached = np.full(n_patches, -np.inf)
    reached[sources[own][:, 1]] = ranked[own]
    if in_encoder is not None:  # who reached the decoder ranks above who did not
        return by_removal(reached, in_encoder).astype(np.float32)
    return np.asarray(np.maximum(reached, ranked[own].min()), dtype=np.float32)


def patches_of_first_row(kept: np.ndarray, media: Sequence[EncodedMedium], stays: np.ndarray | None) -> np.ndarray:
    """int64 [T], patches of the record's first row that the language model's last layer reads, ascending.

    Args:
        kept: int64 [B, T], patches that left the encoder.
        media: what they became; empty where nothing was encoded.
        stays: bool, which tokens of the first medium the last layer reads; None: all.
    """
    if not media:
        return np.sort(kept[0][kept[0] != PADDING_ID])
    parts = media[0].source_patches.cpu()
    parts = (parts if stays is None else parts[torch.from_numpy(stays)]).flatten(0, 1)
    return np.unique(parts[parts[:, 0] == 0, 1].numpy())
