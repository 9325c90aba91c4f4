"""How results show themselves in a console or notebook: one line each, and tables for HTML. No torch."""

from __future__ import annotations

import base64
import html
import io
import math
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np

from flowcut.cut import CutConfig

LINE_LENGTH = 190
"""Characters of a one-line repr, at most, before its closing `, ...)`."""
CELL = 8
"""Pixels of a patch in a mask's thumbnail, one of them the line between patches; on large grids fewer."""
THUMBNAIL_SIDE = 192
"""Pixels of the longer side of a mask's thumbnail, where a patch can be drawn that small."""
KEPT_COLOUR, PRUNED_COLOUR, LINE_COLOUR = 40, 205, 255
"""Grey levels."""
MOST_MASKS = 6
"""Masks shown of one record; those of further views are only counted."""


class _Shortened(reprlib.Repr):
    """Values in a few words: arrays by type and shape, results inside a result by their class."""

    def __init__(self) -> None:
        super().__init__()
        self.maxstring, self.maxtuple, self.maxdict, self.maxother = 40, 4, 3, 40

    def repr_ndarray(self, array: np.ndarray, level: int) -> str:
        return f"{array.dtype} {list(array.shape)}"

    def repr_float(self, number: float, level: int) -> str:
        return f"{number:.4g}"

    def repr_CutConfig(self, cut: CutConfig, level: int) -> str:
        return cut.title

    def repr_tuple(self, items: tuple[Any, ...], level: int) -> str:
        if items and is_dataclass(items[0]):
            return f"{len(items)} {type(items[0]).__name__}"
        return super().repr_tuple(items, level)

    def repr_instance(self, item: Any, level: int) -> str:
        return f"{type(item).__name__}(...)" if is_dataclass(item) else super().repr_instance(item, level)


SHORTENED = _Shortened()


def one_line(item: Any, names: Sequence[str] = ()) -> str:
    """A dataclass in one line of at most 200 characters, as its `__repr__`.

    Args:
        item: a dataclass instance.
        names: the fields to show; empty: all that differ from their default, as many as the line holds.
    """
    shown = names or [field.name for field in fields(item) if getattr(item, field.name) is not field.default]
    line = f"{type(item).__name__}("
    for place, name in enumerate(shown):
        text = f"{', ' if place else ''}{name}={SHORTENED.repr(getattr(item, name))}"
        if len(line) + len(text) > LINE_LENGTH:
            return f"{line}{', ' if place else ''}...)"
        line += text
    return f"{line})"


def html_table(rows: Mapping[str, str], pictures: str = "") -> str:
    """A notebook's HTML of a result: a line for each fact that is not empty, beside pictures.

    Args:
        rows: name to text, in any characters: both are escaped here.
        pictures: HTML, as `html_masks` gives it.
    """
    cell = "text-align:left;vertical-align:top;padding:0 1em 0.2em 0"
    lines = [
        f'<tr><th scope="row" style="{cell}">{html.escape(name)}</th>'
        f'<td dir="auto" style="{cell};white-space:pre-wrap;max-width:60em">{html.escape(text)}</td></tr>'
        for name, text in rows.items()
        if text
    ]
    table = f'<table style="flex:1;min-width:20em;border-collapse:collapse">{"".join(lines)}</table>'
    return f'<div style="display:flex;flex-wrap:wrap;gap:1em;align-items:flex-start">{pictures}{table}</div>'


def html_masks(masks: Sequence[tuple[str, np.ndarray]]) -> str:
    """The masks of one record as figures, each with its name and counts below it; of many, the first few.

    Args:
        masks: for each view of the picture its name and bool [rows, columns], True for kept patches.
    """
    figures = [_figure(name, kept) for name, kept in masks[:MOST_MASKS]]
    if len(masks) > MOST_MASKS:
        figures.append(f"<span>and {len(masks) - MOST_MASKS} more views</span>")
    return "".join(figures)


def _figure(name: str, kept: np.ndarray) -> str:
    caption = html.escape(f"{name}: {int(kept.sum())} of {kept.size} patches kept")
    picture = f'<img src="{mask_url(kept)}" alt="{caption}">'
    return f'<figure style="margin:0">{picture}<figcaption>{caption}</figcaption></figure>'


def mask_url(kept: np.ndarray) -> str:
    """A mask on a plain grid as the data URL of a small PNG: kept patches dark, pruned ones light.

    Args:
        kept: bool [rows, columns].
    """
    from PIL import Image  # only here: who reads records need not wait for it

    side = min(CELL, max(2, THUMBNAIL_SIDE // max(kept.shape)))
    pixels = np.where(kept, KEPT_COLOUR, PRUNED_COLOUR).astype(np.uint8).repeat(side, axis=0).repeat(side, axis=1)
    if side > 2:
        pixels[side - 1 :: side] = LINE_COLOUR
        pixels[:, side - 1 :: side] = LINE_COLOUR
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def kept_grid(kept_patch_ids: np.ndarray, grid: tuple[int, int] | None, n_patches: int) -> np.ndarray | None:
    """bool [rows, columns], True for kept patches; None where the grid is not known.

    Args:
        kept_patch_ids: int64 [T], negative ids are padding.
        grid: rows and columns; None: not known, a square where the number of patches allows it.
        n_patches: on the whole grid.
    """
    side = math.isqrt(n_patches)
    if grid is None and side * side != n_patches:
        return None
    rows, columns = grid or (side, side)
    kept = np.zeros(rows * columns, bool)
    kept[kept_patch_ids[kept_patch_ids >= 0]] = True
    return kept.reshape(rows, columns)
