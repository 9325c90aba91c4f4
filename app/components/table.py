"""A small table of a section, in the page's own type."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import streamlit as st


def table(name: str, head: Sequence[str], rows: Sequence[str]) -> None:
    """Rows, `<tr>` elements of escaped text, under the names of their columns; `name` is what tests find it by."""
    columns = "".join(f"<th>{escape(title)}</th>" for title in head)
    st.html(
        f'<div class="lens-table" data-testid="{escape(name)}"><table><thead><tr>{columns}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )
