"""The painter: a mask over the picture whose patches are toggled by click, by lasso or by keyboard."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import streamlit as st

from flowcut.record import Geometry

_HERE = Path(__file__).parent

_component = st.components.v2.component(
    "flowcut_lens_painter",
    html=(_HERE / "painter.html").read_text(encoding="utf-8"),
    css=(_HERE / "painter.css").read_text(encoding="utf-8"),
    js=(_HERE / "painter.js").read_text(encoding="utf-8"),
)


def painter(
    picture: str,
    geometry: Geometry,
    base: np.ndarray,
    kept: np.ndarray,
    lasso: str,
    key: str,
    on_toggle: Callable[[list[int]], Any],
) -> None:
    """Show the mask.

    Args:
        picture: the picture as a URL that holds all of it, at the size that `geometry` knows as original.
        geometry: one grid over it.
        base: int64 [T], the patches that were kept before any edit.
        kept: int64, those kept now.
        lasso: what the lasso does to the patches inside it, `rescue` or `drop`; a click toggles one.
        key: the widget's key.
        on_toggle: called with the patches that were toggled together.
    """

    def toggled() -> None:
        ids = st.session_state[key].toggled
        n_patches = geometry.grid_rows * geometry.grid_cols
        if isinstance(ids, list):
            on_toggle([int(i) for i in ids if isinstance(i, int) and 0 <= i < n_patches])

    data = {
        "picture": picture,
        "size": [geometry.original_width, geometry.original_height],
        "columns": geometry.grid_cols,
        "boxes": geometry.boxes().round(2).tolist(),
        "base": base.tolist(),
        "kept": kept.tolist(),
        "lasso": lasso,
    }
    _component(key=key, data=data, on_toggled_change=toggled)
