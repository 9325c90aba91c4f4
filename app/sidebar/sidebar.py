"""What every page has at its side. Drawn by the main script, so that its widgets keep their values across pages."""

from __future__ import annotations

import streamlit as st

from flowcut_lens.app.sidebar import controls
from flowcut_lens.app.sidebar.picture import choose_picture


def sidebar() -> None:
    """Picture, question, model, method and budget, and the button that asks."""
    with st.sidebar:
        choose_picture()
        controls.question_box()
        controls.model_box()
        controls.method_and_budget()
        controls.more()
        controls.run_button()
