"""Geometry: where a vision encoder's patches lie on the original picture. No torch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from flowcut.records.display import one_line

WHOLE_VIEWS = ("base", "thumbnail")
"""Names of tiles that show the full picture once, beside crops of it."""


@dataclass(frozen=True)
class Geometry:
    """From a patch id to pixels of the ORIGINAL picture (EXIF orientation applied), through resize, crop and pad."""

    original_width: int
    original_height: int
    resized_width: float
    """Whole pixels, but where the picture was scaled down to a coarser grid (`downsample`); so the next three."""
    resized_height: float
    crop_left: float
    """Left edge of the encoder's input in the resized picture, px; negative: that much padding."""
    crop_top: float
    """Top edge, likewise."""
    input_width: int
    """Width of the encoder's input, px."""
    input_height: int
    patch: int
    """Side of a patch, px of the encoder's input."""
    grid_rows: int
    grid_cols: int
    view: str = "picture"
    """What the encoder saw of it, in words: `picture`, or a tile's or frame's name."""
    picture: int = 0
    """Which picture of the prompt, from 0."""

    __repr__ = one_line

    def box(self, patch_id: int) -> tuple[float, float, float, float]:
        """Left, top, right, bottom of a patch in original pixels; outside the picture where it shows padding.

        Raises:
            IndexError: no such patch on the grid.
        """
        if not 0 <= patch_id < self.grid_rows * self.grid_cols:
            raise IndexError(f"Patch {patch_id} is not on the {self.grid_cols} x {self.grid_rows} grid.")
        left, top, right, bottom = self.boxes()[patch_id].tolist()
        return left, top, right, bottom

    def boxes(self) -> np.ndarray:
        """float64 [grid_rows * grid_cols, 4], every patch's left, top, right, bottom in original pixels."""
        row, column = np.divmod(np.arange(self.grid_rows * self.grid_cols), self.grid_cols)
        left_top = np.stack([column, row], axis=1) * self.patch
        return self._to_original(np.concatenate([left_top, left_top + self.patch], axis=1))

    def seen_box(self) -> tuple[float, float, float, float]:
        """The part of the original picture that the model saw: left, top, right, bottom in original pixels."""
        side = np.array([[0, 0, self.grid_cols * self.patch, self.grid_rows * self.patch]])
        left, top, right, bottom = self._to_original(side)[0].tolist()
        width, height = self.original_width, self.original_height
        return max(left, 0.0), max(top, 0.0), min(right, float(width)), min(bottom, float(height))

    def _to_original(self, boxes: np.ndarray) -> np.ndarray:
        scale_x = self.original_width / self.resized_width
        scale_y = self.original_height / self.resized_height
        moved = boxes + np.array([self.crop_left, self.crop_top] * 2)
        scaled: np.ndarray = moved * np.array([scale_x, scale_y] * 2)
        return scaled
