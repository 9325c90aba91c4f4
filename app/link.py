"""The page's address: which scene, question, method and budget it shows, so that a link opens the same view.

The stage adds its layer and patch to the same address by itself, in the browser. Pictures from outside have no address:
they never leave this machine.
"""

from __future__ import annotations

from dataclasses import dataclass

import streamlit as st

from flowcut.criteria import METHODS
from flowcut.schedule import VARIANTS

WRITTEN = ("scene", "question", "method", "tokens", "variant")
LARGEST = 10**9


@dataclass(frozen=True)
class Link:
    """What an address asks for; None where it says nothing, or nothing that can be."""

    scene: int | None = None
    question: str | None = None
    method: str | None = None
    tokens: int | None = None
    variant: str | None = None
    patch: int | None = None
    """Chosen on the stage, which writes it into the address itself."""


def read() -> Link:
    """The address of the page as it was opened."""
    given = st.query_params
    tokens = _number(given.get("tokens"))
    return Link(
        scene=_number(given.get("scene")),
        question=given.get("question") or None,
        method=_one_of(given.get("method"), tuple(name for name in METHODS if not METHODS[name].takes_patches)),
        tokens=tokens if tokens else None,
        variant=_one_of(given.get("variant"), VARIANTS),
        patch=_number(given.get("patch")),
    )


def write(link: Link | None) -> None:
    """Put into the address what is shown now; None: a picture that has no address."""
    for name in WRITTEN:
        value = None if link is None else getattr(link, name)
        if value is not None:
            st.query_params[name] = str(value)
        elif name in st.query_params:
            del st.query_params[name]


def _number(text: str | None) -> int | None:
    number = int(text) if text and text.isascii() and text.isdecimal() and len(text) < 11 else None
    return number if number is not None and number <= LARGEST else None


def _one_of(text: str | None, allowed: tuple[str, ...]) -> str | None:
    return text if text in allowed else None
