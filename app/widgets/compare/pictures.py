"""Small pictures for the Compare page: masks at the size of a thumbnail."""

from __future__ import annotations

from dataclasses import replace

from PIL.Image import Image, Resampling

from app.widgets.thumbnails import data_url
from flowcut.maskpicture import assembled_mask
from flowcut.record import Geometry
from flowcut.results import Run

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


def small_mask(image: Image, run: Run) -> str | None:
    """What a run kept, as the URL of a small picture; None where its patches are not on the picture's own grid."""
    record = run.record
    if record is None or not record.geometries or run.final_patch_ids is None:
        return None
    picture = small(image)
    if record.batch == 1:
        geometries, kept = [on_small(record.geometries[0], picture)], [run.final_patch_ids]
    else:
        rows = [row for row, geometry in enumerate(record.geometries) if geometry.part != "base"]
        geometries = [on_small(record.geometries[row], picture) for row in rows]
        kept = [record.kept_patch_ids[row] for row in rows]
    return data_url(assembled_mask(picture, geometries, kept), SIDE)
