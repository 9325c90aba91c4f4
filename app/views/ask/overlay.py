"""The attention of a word as pictures: one number per visual token, laid on the token's source patches."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from PIL.Image import Image

from flowcut.records.mask_picture import assembled_heat
from flowcut.records.run import Run
from flowcut.records.vision import FlowRecord, Geometry
from flowcut_lens.analysis.answer import by_patch
from flowcut_lens.analysis.views import Pane, frame_of_row, panes
from flowcut_lens.app.media.chosen import ChosenPicture

SIDE = 420
"""Longest side of the only heat picture, pixels."""
SIDE_OF_MANY = 260
"""Of each, where there are base and crops."""
SIDE_OF_FRAMES = 180
"""Of each, where there are frames: two beside each other."""

Heat = tuple[np.ndarray, np.ndarray]
"""Patches of one row of a record, int64 [K], and their values, float64 [K]."""


@dataclass(frozen=True, eq=False)
class HeatPicture:
    """One picture of an answer's word."""

    title: str
    """Which tile or frame it is, and of how many patches."""
    image: Image


def heat_pictures(run: Run, values: np.ndarray, picture: ChosenPicture) -> list[HeatPicture]:
    """The full picture, base and crops, or every frame, all on one scale; none where tokens cannot be traced.

    Args:
        values: [V], one number for each visual token, at least 0.
    """
    record = run.record
    heats = None if record is None or not record.geometries else _heats(run, record, values)
    if record is None or heats is None:
        return []
    peak = max((float(own.max()) for _, own in heats if len(own)), default=0.0)
    shown = panes(record.geometries)
    side = SIDE if len(shown) == 1 else SIDE_OF_FRAMES if picture.frames else SIDE_OF_MANY
    return [HeatPicture(pane.title, _heat_of(pane, record.geometries, heats, picture, side, peak)) for pane in shown]


def _heats(run: Run, record: FlowRecord, values: np.ndarray) -> list[Heat] | None:
    """Each row's patches and what they get; None: it is not known what the tokens are made of."""
    attention = run.answer_attention
    if attention is not None and attention.source_patches is not None:
        return [by_patch(attention, values, row) for row in range(record.batch)]
    # Kept before tokens were traced: those of one picture are its patches.
    as_patches = record.batch == 1 and len(values) == record.kept_patch_ids.shape[1]
    return [(record.kept_patch_ids[0], values)] if as_patches else None


def _heat_of(
    pane: Pane, geometries: tuple[Geometry, ...], heats: list[Heat], picture: ChosenPicture, side: int, peak: float
) -> Image:
    frames = picture.frames or (picture.image,)
    small = frames[frame_of_row(pane.rows[0], len(geometries), len(frames)) if len(frames) > 1 else 0].copy()
    small.thumbnail((side, side))  # first: a photograph in full size would take seconds
    own = [replace(geometries[row], original_width=small.width, original_height=small.height) for row in pane.rows]
    ids, values = [heats[row][0] for row in pane.rows], [heats[row][1] for row in pane.rows]
    return assembled_heat(small, own, ids, values, peak)
