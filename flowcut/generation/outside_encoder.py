"""Cuts outside the vision encoder, and what is left in the end whatever the stage: patches and their ranking."""

from __future__ import annotations

import math
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
from flowcut.encoder.recording import Recording
from flowcut.errors import InvalidCut
from flowcut.families.family import SEPARATOR, EncodedMedium
from flowcut.records.vision import PADDING_ID, Geometry


def in_the_encoder(cut: CutConfig | None) -> CutConfig | None:
    """The cut that is made in the vision encoder, without a second one that follows it; else None."""
    return cut.first if cut is not None and cut.stage is ENCODER else None


def in_the_decoder(cut: CutConfig | None, layer_of_flowcut: int | None) -> tuple[CutConfig | None, int]:
    """The cut that is made inside the language model, or None, and the layer that FlowCut looks into there.

    Args:
        layer_of_flowcut: of the family; None: FlowCut does not cut in its language model.
    """
    if cut is not None and cut.by_flowcut and layer_of_flowcut is not None:
        return cut, layer_of_flowcut
    return (None if cut is None else cut.in_decoder), 1


def other_stage(cut: CutConfig | None, place: str) -> tuple[str, ...]:
    """What a record of one of two cuts must say of the other; nothing where there is one.

    Args:
        place: `first` or `second`, which of the two cuts the record is of.
    """
    if cut is None or cut.then is None:
        return ()
    first, second = cut.stages
    hands_cls = first.variant in METHODS[first.method].hands_cls
    cls = ("Where the first cut hands a CLS token over, the second one does not count it: it stays.",)
    if place == "first":
        return (f"A second cut follows {second.stage.place}: {second.title}.", *(cls if hands_cls else ()))
    return (f"A first cut was made {first.stage.place}: {first.title}.", *(cls if hands_cls else ()))


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


@dataclass(frozen=True, eq=False)
class Seen:
    """What is known of the media besides their tokens, for methods behind the projector."""

    grid: tuple[int, int]
    """Rows and columns of patches of the record's first row."""
    shown: Sequence[Mapping[str, np.ndarray]]
    """Of each of the record's rows, what the method wants to know of the encoder's attention: float64 [N, ...] by the
    names of Evidence's fields."""
    video: bool
    """Whether the media are videos, their tokens frame by frame."""

    @classmethod
    def by(cls, recording: Recording, video: bool) -> Seen:
        """Of what has just gone through a vision encoder."""
        return cls(recording.grid, recording.shown, video)


def cut_media(
    media: Sequence[EncodedMedium], cut: CutConfig, seen: Seen
) -> tuple[list[EncodedMedium], np.ndarray | None]:
    """What a method behind the projector keeps of each medium, and how it ranked the patches of the record's first row.

    The ranking is float64 [N]; None where nothing was cut of the first medium.
    """
    cuts = [behind_the_projector(medium, cut, seen) for medium in media]
    kept, ranking = [medium for medium, _ in cuts], cuts[0][1]
    return kept, None if ranking is None else ranking_of_patches(ranking, media[0], math.prod(seen.grid))


def behind_the_projector(medium: EncodedMedium, cut: CutConfig, seen: Seen) -> tuple[EncodedMedium, np.ndarray | None]:
    """A medium's tokens that a method of this stage keeps, and its ranking, float64 [n]; None where nothing is cut.

    Tokens that are no patch, such as a CLS token, are no candidates and stay.
    """
    is_patch = medium.sources[:, 0] != SEPARATOR
    places = is_patch.nonzero()[:, 0]
    if len(places) <= cut.tokens:
        return medium, None
    ranking = METHODS[cut.method].ranking(_of_tokens(medium, places, seen), cut)
    stays = ~is_patch
    stays[places[torch.from_numpy(highest(ranking, cut.tokens)[0]).to(places.device)]] = True
    return medium.kept(stays), ranking[0]


def _of_tokens(medium: EncodedMedium, places: Tensor, seen: Seen) -> Evidence:
    """What a method behind the projector is given of the tokens at these places."""
    sources = medium.sources[places].cpu().numpy()
    names = seen.shown[0]
    shown: dict[str, Any] = {name: np.array([seen.shown[row][name][i] for row, i in sources])[None] for name in names}
    return Evidence(
        batch=1,
        n_patches=len(places),
        features=medium.features[places].detach().double().cpu().numpy()[None],
        **shown,
        grid_cols=seen.grid[1],
        n_frames=len(np.unique(sources[:, 0])) if seen.video else None,
    )


def ranking_of_patches(ranking: np.ndarray, medium: EncodedMedium, n_patches: int) -> np.ndarray:
    """float64 [N], a ranking of a medium's tokens as one of the patches of the record's first row.

    A patch ranks as the highest token that it is in, one in no token lowest.

    Args:
        ranking: float64 [n], of those tokens that are no separators.
        medium: before the cut.
        n_patches: N.
    """
    patches = medium.source_patches[medium.sources[:, 0] != SEPARATOR].cpu().numpy()  # [n, k, 2]
    found = np.full(n_patches, ranking.min())
    own = (patches[..., 0] == 0) & (patches[..., 1] >= 0)
    np.maximum.at(found, patches[..., 1][own], np.broadcast_to(ranking[:, None], own.shape)[own])
    return found


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
