"""A Plotly figure on the page, with the line that says how to read it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import streamlit as st

from flowcut_lens.analysis.figures.compare_template import how_to_read
from flowcut_lens.app.components.formatting import escape_markdown

if TYPE_CHECKING:
    import plotly.graph_objects as go

CONFIG = {"displaylogo": False, "modeBarButtonsToRemove": ["select2d", "lasso2d", "autoScale2d"]}


def plot(figure: go.Figure, made_by: Callable[..., Any], key: str | None = None) -> None:
    """Show a figure, and below it how to read it, which the function that made it says."""
    st.plotly_chart(figure, key=key or f"plot-{made_by.__name__}", config=CONFIG, width="stretch")
    st.caption(f"**How to read this.** {escape_markdown(how_to_read(made_by))}")
