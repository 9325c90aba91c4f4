"""One of a few, always one: a row of buttons."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import streamlit as st

Option = TypeVar("Option")


def choose(label: str, options: Mapping[Option, str], key: str, help: str | None = None, shown: bool = True) -> Option:
    """The chosen option; the first until someone chooses.

    Args:
        label: of the row.
        options: what can be chosen, with the words on its button.
        key: the widget's key.
        help: behind the label's question mark.
        shown: whether the label is seen, not only read out.
    """
    first = next(iter(options))
    chosen = st.segmented_control(
        label, list(options), format_func=options.__getitem__, key=key, default=first, required=True, help=help,
        label_visibility="visible" if shown else "collapsed",
    )  # fmt: skip
    return first if chosen is None else chosen
