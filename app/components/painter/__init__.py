"""The painter: a mask over the picture whose patches are toggled by click, by lasso or by keyboard."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import streamlit as st

from flowcut.records.vision import Geometry
from flowcut_lens.app.components.modules import ModuleComponent

_HERE = Path(__file__).parent

_component = ModuleComponent(
    _HERE,
    html=(_HERE / "painter.html").read_text(encoding="utf-8"),
    css=(_HERE / "painter.css").read_text(encoding="utf-8"),
)


def painter(
    picture: str,
    geometry: Geometry,
    base: np.ndarray,
    kept: np.ndarray,
    lasso: str,
    mask: str,
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
        mask: which mask this is; when it changes, the browser drops what it holds of the one before.
        key: the widget's key.
        on_toggle: called once for each edit, with the patches that were toggled together.
    """
    seen = f"{key}_seen"
    st.session_state.setdefault(seen, 0)

    def toggled() -> None:
        n_patches = geometry.grid_rows * geometry.grid_cols
        for edit in st.session_state[key].toggled or []:
            if edit["serial"] > st.session_state[seen]:  # otherwise it came with an earlier one already
                st.session_state[seen] = edit["serial"]
                on_toggle([i for i in edit["ids"] if 0 <= i < n_patches])

    data = {
        "picture": picture,
        "size": [geometry.original_width, geometry.original_height],
        "columns": geometry.grid_cols,
        "boxes": geometry.boxes().round(2).tolist(),
        "base": base.tolist(),
        "kept": kept.tolist(),
        "lasso": lasso,
        "mask": mask,
        "seen": st.session_state[seen],
    }
    _component(key=key, data=data, on_toggled_change=toggled)
