"""What is printed on cards and charts: characters, words, small print, and the bars of a chart with their numbers."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from flowcut_lens.scenes.paint import PAINT
from flowcut_lens.scenes.world import BAR, CHART, Placement

SCALE = 2
"""Print is drawn larger and reduced: turning then leaves no jagged edge."""

Window = tuple[slice, slice]
Area = tuple[float, float, float, float]
"""Left, top, right and bottom, in pixels of the picture."""
Ink = tuple[NDArray[np.float32], NDArray[np.float32]]
"""A colour [3], 0..1, and how much of each pixel it covers [rows, cols], 0..1."""


def printed(placement: Placement, window: Window, ink: NDArray[np.float32]) -> Iterator[Ink]:
    """The layers of print on an object over a window of the picture, the lowest first; none on most objects."""
    sheet = _Sheet(placement, window)
    if placement.shape == CHART:
        yield from _chart(sheet, ink)
    elif placement.text is not None:
        yield ink, _card(sheet)


def chart_bars(placement: Placement) -> list[Area]:
    """The area of each bar; its number stands above it. Empty unless it is a chart."""
    radius = placement.extent / 2
    pitch = 1.32 * radius / max(len(placement.bars), 1)
    bottom, found = placement.centre_y + 0.5 * radius, []
    for place, (_, number) in enumerate(placement.bars):
        middle = placement.centre_x - 0.66 * radius + (place + 0.5) * pitch
        found.append((middle - 0.31 * pitch, bottom - number / 9 * 0.72 * radius, middle + 0.31 * pitch, bottom))
    return found


def shown_bars(placement: Placement) -> list[tuple[Placement, Area]]:
    """The bars of a chart as objects (colour, number, the middle of the area), each with its area."""
    found = []
    for place, ((colour, number), area) in enumerate(zip(placement.bars, chart_bars(placement), strict=True)):
        if place != placement.left_out:
            left, top, right, bottom = area
            middle = ((left + right) / 2, (top + bottom) / 2)
            found.append((Placement(BAR, colour, "small", str(number), *middle, bottom - top, 0.0), area))
    return found


def number_height(placement: Placement) -> float:
    """Height in pixels of the strip above a bar in which its number stands."""
    return 0.13 * placement.extent


class _Sheet:
    """A sheet that lies on an object and turns with it."""

    def __init__(self, placement: Placement, window: Window) -> None:
        self.placement = placement
        self.rows, self.cols = window
        size = ((self.cols.stop - self.cols.start) * SCALE, (self.rows.stop - self.rows.start) * SCALE)
        self.image = Image.new("L", size)
        self.pen = ImageDraw.Draw(self.image)

    def at(self, x: float, y: float) -> tuple[float, float]:
        """A place in the picture, in pixels of the sheet."""
        return (x - self.cols.start) * SCALE, (y - self.rows.start) * SCALE

    def write(self, text: str, size: float, width: float, right: float = 0.0, down: float = 0.0) -> None:
        """Text around a point beside the object's centre: of a letter size, made smaller where it is wider than so.

        All in pixels of the picture.
        """
        size *= min(1.0, width * SCALE / _font(round(size * SCALE)).getlength(text))
        font, stroke = _font(round(size * SCALE)), max(1, round(size * 0.025 * SCALE))
        x, y = self.at(self.placement.centre_x + right, self.placement.centre_y + down)
        left, top, end, bottom = font.getbbox(text, stroke_width=stroke)
        self.pen.text((x - (left + end) / 2, y - (top + bottom) / 2), text, 255, font, stroke_width=stroke)

    def coverage(self) -> NDArray[np.float32]:
        """What has been drawn, turned with the object; the sheet is clean again."""
        centre = self.at(self.placement.centre_x, self.placement.centre_y)
        turned = self.image.rotate(-np.degrees(self.placement.rotation), Image.Resampling.BICUBIC, center=centre)
        self.pen.rectangle((0, 0, *self.image.size), 0)
        return np.asarray(turned.reduce(SCALE), np.float32) / np.float32(255)


@lru_cache(maxsize=256)
def _font(size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont), "Pillow was built without FreeType"
    return font


def _card(sheet: _Sheet) -> NDArray[np.float32]:
    """A character, a character above small print, or a word in capitals."""
    placement, extent = sheet.placement, sheet.placement.extent
    text = placement.text or ""
    if len(text) > 1:
        sheet.write(text.upper(), 0.4 * extent, 0.56 * extent)
    elif placement.small_print is None:
        sheet.write(text, 0.72 * extent, extent)
    else:
        sheet.write(text, 0.5 * extent, extent, down=-0.12 * extent)
        sheet.write(placement.small_print.upper(), 0.17 * extent, 0.5 * extent, down=0.27 * extent)
    return sheet.coverage()


def _chart(sheet: _Sheet, ink: NDArray[np.float32]) -> Iterator[Ink]:
    """Bars on a line, each with its number above it."""
    placement = sheet.placement
    bars = shown_bars(placement)
    for bar, (left, top, right, bottom) in bars:
        sheet.pen.rectangle((*sheet.at(left, top), *sheet.at(right, bottom)), 255)
        yield np.asarray(PAINT[bar.colour], np.float32), sheet.coverage()
    height = number_height(placement)
    for bar, (_, top, _, _) in bars:
        right, down = bar.centre_x - placement.centre_x, top - 0.55 * height - placement.centre_y
        sheet.write(bar.text or "", 0.95 * height, height, right, down)
    line = chart_bars(placement)[0][3]
    reach = 0.68 * placement.extent / 2
    ends = (*sheet.at(placement.centre_x - reach, line), *sheet.at(placement.centre_x + reach, line + 1.5))
    sheet.pen.rectangle(ends, 255)
    yield ink, sheet.coverage()
