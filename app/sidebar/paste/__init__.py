"""Pasting a picture anywhere on the page, as a component that shows nothing."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from pathlib import Path

import streamlit as st

from flowcut_lens.app.components.modules import ModuleComponent

_listener = ModuleComponent(Path(__file__).parent, html="<span></span>")


def paste(key: str, on_paste: Callable[[bytes], None]) -> None:
    """Listen for pasted pictures.

    Args:
        key: the widget's key.
        on_paste: called with the bytes of the pasted file.
    """

    def pasted() -> None:
        value = st.session_state[key].pasted
        if value:
            on_paste(decode(value))

    _listener(key=key, height=1, on_pasted_change=pasted)


def decode(data_url: str) -> bytes:
    """The bytes of a base64 data URL; none where it is not one (they are then refused as no picture)."""
    try:
        return base64.b64decode(data_url.partition(",")[2], validate=True)
    except binascii.Error:
        return b""
