"""The stage: mask, relay graph and concentration of one question, moved together by one layer control in the browser.

Plain JavaScript on canvases, in the modules of `js/`; it draws what `analysis.stage.stage_payload` packed and computes
nothing. A step from layer to layer never reaches the server, a click on a patch does.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal, TypedDict

import streamlit as st

from flowcut_lens.app.components.modules import ModuleComponent

_HERE = Path(__file__).parent

_component = ModuleComponent(
    _HERE,
    html=(_HERE / "stage.html").read_text(encoding="utf-8"),
    css=(_HERE / "stage.css").read_text(encoding="utf-8"),
)


class StageClick(TypedDict):
    """What the person chose on the stage."""

    layer: int | None
    """Layer at the last click on a patch."""
    patch: int | None
    """The chosen patch, on the grid from 0; where there are several grids, numbered through them."""


def stage(
    payload: bytes,
    key: str,
    linked_patch: int | None = None,
    height: int | Literal["content"] = "content",
    on_choice: Callable[[int | None], None] | None = None,
) -> StageClick:
    """Show the stage.

    Args:
        payload: what `analysis.stage.stage_payload` made of two runs, as JSON. Packed by the caller, once: Streamlit
            would write a dict out anew, twice, whenever the page runs.
        key: the widget's key; layer, run and metric keep their place as long as it stays the same.
        linked_patch: the patch that the page was opened with, which the stage reads too; chosen until a person chooses.
        height: in pixels, or as high as it needs to be.
        on_choice: called with the patch that was just chosen, before the page is run again.
    """

    def changed() -> None:
        if on_choice is not None and st.session_state[key].selection:
            on_choice(st.session_state[key].selection["patch"])

    result = _component(key=key, data=payload, height=height, on_selection_change=changed)
    chosen = result.selection or {"layer": None, "patch": linked_patch}
    return {"layer": chosen["layer"], "patch": chosen["patch"]}
