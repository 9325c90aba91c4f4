"""A Plotly figure on the page, with the line that says how to read it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import streamlit as st

if TYPE_CHECKING:
    import plotly.graph_objects as go

CONFIG = {"displaylogo": False, "modeBarButtonsToRemove": ["select2d", "lasso2d", "autoScale2d"]}


def plot(figure: go.Figure, key: str, how_to_read: str) -> None:
    """Show a figure."""
    st.plotly_chart(figure, key=key, config=CONFIG, width="stretch")
    st.caption(how_to_read)
