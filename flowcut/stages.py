"""Cuts outside the vision encoder, and what is left in the end whatever the stage: patches and their ranking."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from flowcut.criteria import METHODS
from flowcut.families.family import EncodedPicture
from flowcut.record import PADDING_ID
from flowcut.schedule import CutConfig


def stage_of(cut: CutConfig | None) -> str | None:
    """Where a cut is made; None: nothing is cut."""
    return None if cut is None else METHODS[cut.method].stage


def in_the_encoder(cut: CutConfig | None) -> CutConfig | None:
    """The cut as the vision encoder is told of it: those of other stages leave it whole."""
    return cut if stage_of(cut) == "encoder" else None


def patches_of_first_row(
    kept: np.ndarray, pictures: Sequence[EncodedPicture], pooled: Sequence[Tensor], stays: np.ndarray | None
) -> np.ndarray:
    """int64 [T], patches of the record's first row that the language model's last layer reads, ascending.

    Args:
        kept: int64 [B, T], patches that left the encoder.
        pictures: what they became; empty for families that lay out their prompts themselves.
        pooled: int64 [n, parts, 2], of families that pool patches into tokens, the rows and patches of each token.
        stays: int64, which tokens of the first picture the last layer reads; None: all.
    """
    if pictures:
        sources = pictures[0].sources.cpu()
        sources = sources if stays is None else sources[torch.from_numpy(stays)]
    elif pooled:
        sources = pooled[0].cpu().flatten(0, 1)
    else:
        return np.sort(kept[0][kept[0] != PADDING_ID])
    return np.unique(sources[sources[:, 0] == 0, 1].numpy())
