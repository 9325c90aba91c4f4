"""Pictures and videos that an encoder saw in several rows (tiles, frames): numbered together, and where each lies.

*Numbered through* means that the patches of the first row come first, then those of the second, and so on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from flowcut.records.geometry import WHOLE_VIEWS
from flowcut.records.vision import PADDING_ID, FlowRecord, Geometry

if TYPE_CHECKING:
    from flowcut.records.run import Run

NOT_READ = "not read by the language model"
"""What is said of layers behind the one whose output the language model reads."""

CROP = "crop"
"""How the names of tiles begin, in `Geometry.view`; others are frames, or the one picture."""


def images_of(record: FlowRecord, batch: int | None = 0) -> list[FlowRecord]:
    """One row of a record, or (None) all of them, each a record of its own with layers in it.

    Raises:
        ValueError: the record holds no layers (it was made by a cut without recording).
    """
    if not record.layers:
        raise ValueError("This run was made without recording its layers: ask again with record=True.")
    rows = range(record.batch) if batch is None else [batch]
    return [record.image(row) for row in rows]


def one_image(record: FlowRecord, batch: int = 0) -> FlowRecord:
    """One row of a record; raises as `images_of` does."""
    return images_of(record, batch)[0]


def is_read(layers: np.ndarray, last_read_layer: int) -> np.ndarray:
    """bool [L], which layers (by number) lead to what the language model reads: the others lie behind."""
    return np.asarray(layers <= last_read_layer)


def up_to_read(record: FlowRecord) -> FlowRecord:
    """The record without the layers behind the one whose output the language model reads."""
    return replace(record, layers=tuple(layer for layer in record.layers if layer.layer <= record.last_read_layer))


def recorded(run: Run) -> FlowRecord:
    """The first row of a run's record, with layers in it.

    Raises:
        ValueError: the run was made without one, or of a vision encoder that is not read.
    """
    if run.record is None:
        raise ValueError(f"The run “{run.title}” was made without a record: ask again with record=True.")
    if run.record.unread is not None:
        raise ValueError(run.record.unread)
    return one_image(run.record)


def first_patches(images: Sequence[FlowRecord]) -> list[int]:
    """Each row's first patch, numbered through all rows."""
    counts = [image.n_patches for image in images]
    return [sum(counts[:row]) for row in range(len(counts))]


def place_of(record: FlowRecord, patch: int) -> tuple[int, int]:
    """The row, and the patch on its own grid, of a patch that is numbered through all rows.

    Raises:
        IndexError: no row has such a patch.
    """
    first = 0
    for row, pruned_at in enumerate(record.pruned_at_layer):
        count = int((pruned_at != PADDING_ID).sum())
        if first <= patch < first + count:
            return row, patch - first
        first += count
    raise IndexError(f"Patch {patch} is not one of {first}.")


@dataclass(frozen=True)
class Pane:
    """Rows that are drawn on one picture: a base tile, all crops put together, or one frame."""

    title: str
    rows: tuple[int, ...]
    """Of the record, ascending."""


def panes(geometries: Sequence[Geometry]) -> list[Pane]:
    """How the rows are shown: the crops of one picture together on it, everything else by itself."""
    shown: dict[tuple[int, int | str], list[int]] = {}
    for row, geometry in enumerate(geometries):
        own: int | str = CROP if geometry.view.startswith(CROP) else row
        shown.setdefault((geometry.picture, own), []).append(row)
    return [Pane(_title(geometries, rows), tuple(rows)) for rows in shown.values()]


def _title(geometries: Sequence[Geometry], rows: Sequence[int]) -> str:
    """The pane's head: what it is, and how many patches it has across and down."""
    views = [geometries[row] for row in rows]
    if not views[0].view.startswith(CROP):
        name = f"{views[0].view}: the full picture once" if views[0].view in WHOLE_VIEWS else views[0].view
        return f"{name}, {views[0].grid_cols} × {views[0].grid_rows} patches"
    across = len({view.crop_left for view in views}) * views[0].grid_cols
    down = len({view.crop_top for view in views}) * views[0].grid_rows
    return f"{len(views)} crops in their places, {across} × {down} patches"


def frame_of_row(row: int, rows: int, frames: int) -> int:
    """Which of the frames shows a row: the first of those that the row was made of."""
    return min(row * -(-frames // rows), frames - 1)


def seen_box(geometries: Sequence[Geometry]) -> tuple[float, float, float, float]:
    """What tiles of one picture see of it together: left, top, right, bottom in original pixels."""
    boxes = np.array([geometry.seen_box() for geometry in geometries])
    left, top = boxes[:, :2].min(axis=0).tolist()
    right, bottom = boxes[:, 2:].max(axis=0).tolist()
    return left, top, right, bottom
