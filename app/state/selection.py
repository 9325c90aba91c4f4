"""What one visitor has chosen to look at: a patch, a word, a layer, a head and an arm, one choice for every panel.

Question, method and budget are chosen in the sidebar (`state.session`). Layer and patch are moved by the stage in the
browser, which reports a patch that was chosen and writes both into the address itself.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import streamlit as st

PRUNED_ARMS = ("cut", "control")
"""The pruned runs that can stand beside the full run: the chosen method, and random."""
ALL = -1
"""The choice of all layers, or all heads, where a widget cannot hold None."""


@dataclass(frozen=True)
class Selection:
    """One visitor's choice."""

    patch: int | None = None
    """On the grid from 0."""
    arm: str = PRUNED_ARMS[0]
    """Which pruned run stands beside the full run, one of PRUNED_ARMS."""
    word: int = 0
    """Place in the full answer."""
    decoder: int = ALL
    """Decoder layer, from 0; ALL: the mean of all."""
    head: int = ALL
    """Head of the decoder, from 0; ALL: the mean of all."""
    weighted: bool = False
    """Whether attention is weighed by the value's norm."""

    def in_address(self) -> dict[str, Any]:
        """What the page's address says of it, by the names of `url.Link`; the patch is the stage's to write."""
        named = {name: getattr(self, name) for name in ("arm", "word", "decoder", "head")}
        return {**named, "weighted": int(self.weighted)}


def chosen() -> Selection:
    """What is chosen now."""
    found: Selection = st.session_state.setdefault("selection", Selection())
    return found


def choose(**changes: Any) -> None:
    """Choose something else; fields of `Selection` by name."""
    st.session_state.selection = replace(chosen(), **changes)


def settle(field: str, allowed: Iterable[Any]) -> Any:
    """The chosen value of a field if these runs have it, else the field's default, which is then chosen."""
    value = getattr(chosen(), field)
    if value in allowed:
        return value
    default = Selection.__dataclass_fields__[field].default
    choose(**{field: default})
    return default


def show_in(key: str, field: str, allowed: Iterable[Any]) -> dict[str, Any]:
    """Let a widget show the choice and change it: the arguments that any widget of this key takes for that.

    One widget for each field: the browser's value of a second one would come back as if a person had chosen it. A
    widget's value is written only where it must change, since a click may be on its way.
    """
    value = settle(field, allowed)
    if st.session_state.get(key) != value:
        st.session_state[key] = value
    return {"key": key, "on_change": _take, "args": (field, key)}


def _take(field: str, key: str) -> None:
    """Callback of the widget. None is no choice: a browser that missed a run sends it, and is put right by the next."""
    if st.session_state[key] is not None:
        choose(**{field: st.session_state[key]})
