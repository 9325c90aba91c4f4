"""Small pictures for the Compare page: masks at the size of a thumbnail."""

from __future__ import annotations

from dataclasses import replace

from PIL.Image import Image, Resampling

from flowcut.records.geometry import WHOLE_VIEWS
from flowcut.records.mask_picture import assembled_mask
from flowcut.records.run import Run
from flowcut.records.vision import Geometry
from flowcut_lens.app.components.thumbnails import data_url
from flowcut_lens.app.views.compare.context import Context

SIDE = 224
"""Longest side, pixels."""


def small(image: Image, side: int = SIDE) -> Image:
    """The picture, no larger than this."""
    copy = image.convert("RGB")
    copy.thumbnail((side, side), Resampling.LANCZOS)
    return copy


def on_small(geometry: Geometry, picture: Image) -> Geometry:
    """The same grid over a smaller copy of the picture."""
    return replace(geometry, original_width=picture.width, original_height=picture.height)


def small_mask(about: Context, run: Run) -> str | None:
    """What a run kept, as the URL of a small picture; None where its patches are not those of the full picture's grid.

    Runs of one-shot methods hold no record: their patches lie as those of the full run do.
    """
    geometries = about.record.geometries
    if not geometries or run.final_patch_ids is None:
        return None
    picture = small(about.image)
    if len(geometries) == 1:
        shown, kept = [geometries[0]], [run.final_patch_ids]
    elif run.record is not None:
        rows = [row for row, geometry in enumerate(geometries) if geometry.view not in WHOLE_VIEWS]
        shown, kept = [geometries[row] for row in rows], [run.record.kept_patch_ids[row] for row in rows]
    else:
        return None
    return data_url(assembled_mask(picture, [on_small(one, picture) for one in shown], kept), SIDE)
