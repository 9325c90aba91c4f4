"""A grid of small pictures to choose from, as a component of the page (no frame, no build step)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import streamlit as st
from PIL.Image import Image

from flowcut_lens.analysis.data_url import picture_url
from flowcut_lens.app.components.modules import ModuleComponent

_HERE = Path(__file__).parent
THUMBNAIL_SIDE = 112
"""Pixels: twice the size on screen, for dense displays."""

_grid = ModuleComponent(
    _HERE,
    html='<div class="grid" role="group"></div>',
    css=(_HERE / "thumbnails.css").read_text(encoding="utf-8"),
)


def thumbnails(
    items: list[tuple[int, str, str]], selected: int | None, label: str, key: str, on_pick: Callable[[int], None]
) -> None:
    """Show pictures as buttons.

    Args:
        items: number, picture as a URL (see `data_url`) and spoken description of each.
        selected: number of the one that is marked as chosen.
        label: what the group is called for those who cannot see it.
        key: the widget's key.
        on_pick: called with the number of the picture that was clicked.
    """

    def picked() -> None:
        value = st.session_state[key].picked
        if value is not None:
            on_pick(int(value))

    shown = [{"id": number, "src": url, "alt": text} for number, url, text in items]
    _grid(key=key, data={"items": shown, "selected": selected, "label": label}, on_picked_change=picked)


def data_url(image: Image, side: int = THUMBNAIL_SIDE) -> str:
    """A small JPEG of a picture, no larger than `side`, as a URL that holds all of it."""
    return picture_url(image, side, quality=85)
