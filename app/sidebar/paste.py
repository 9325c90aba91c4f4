"""Pasting a picture anywhere on the page, as a component that shows nothing."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable

import streamlit as st

_JS = """
// Hands a pasted picture to Python as a data URL; pasted text goes its usual way.
const listening = new WeakMap(); // Streamlit calls with every run of the page, and cleans up after the last only

export default function ({ parentElement, setTriggerValue }) {
  listening.get(parentElement)?.abort();
  const listener = new AbortController();
  listening.set(parentElement, listener);
  const paste = (event) => {
    const file = [...(event.clipboardData?.files ?? [])].find((one) => one.type.startsWith("image/"));
    if (!file) return;
    event.preventDefault();
    const reader = new FileReader();
    reader.onload = () => setTriggerValue("pasted", reader.result);
    reader.readAsDataURL(file);
  };
  document.addEventListener("paste", paste, { signal: listener.signal });
  return () => listener.abort();
}
"""

_listener = st.components.v2.component("flowcut_lens_paste", html="<span></span>", js=_JS)


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
