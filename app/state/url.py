"""The page's address: scene, question, method, budget and what is chosen in the panels: a link opens the same view.

The stage adds its layer and patch to the same address by itself, in the browser. Pictures from outside have no address:
they never leave this machine.

Streamlit's own `bind="query-params"` cannot say the same (checked in 1.67), so the address is read and written here:
- a bound choice writes the label on its button, where links that exist have a name (`method=flowcut`, `arm=control`,
  `section=causal`); a label may change with the answer (`head 3: 41%`) or occur twice in it (`word`);
- a bound toggle takes `true` and `false` only, and links that exist say `weighted=1`; the older name `lane` of
  `arm` would not be read;
- a bound box writes what is being typed (`tokens`, `variant`, `question`), the address says what the answers on screen
  were asked with, and for a picture from outside it says none of it: a bound parameter cannot be left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import streamlit as st

from flowcut.criteria import METHODS
from flowcut.cut import VARIANTS
from flowcut_lens.app.state.selection import PRUNED_ARMS

WRITTEN = ("scene", "question", "method", "tokens", "variant", "settings", "arm", "word", "decoder", "head", "weighted")
LARGEST = 10**9


@dataclass(frozen=True)
class Link:
    """What an address asks for; None where it says nothing, or nothing that can be."""

    scene: int | None = None
    question: str | None = None
    method: str | None = None
    tokens: int | None = None
    variant: str | None = None
    settings: str | None = None
    """The method's own, where they are not as usual: `important_share:0.75`, several with commas."""
    patch: int | None = None
    """Chosen on the stage, which writes it into the address itself."""
    arm: str | None = None
    """Which pruned run stands beside the full run: `cut` or `control`."""
    word: int | None = None
    """Place in the full answer, from 0."""
    decoder: int | None = None
    """Decoder layer, from 0; `layer` is the vision layer, which the stage writes."""
    head: int | None = None
    """Head of the decoder, from 0."""
    weighted: int | None = None
    """1: attention weighed by value."""

    @property
    def choices(self) -> dict[str, Any]:
        """What is chosen in the panels, as fields of `selection.Selection`; what is not said is left out."""
        said = {name: getattr(self, name) for name in ("patch", "arm", "word", "decoder", "head", "weighted")}
        return {name: bool(value) if name == "weighted" else value for name, value in said.items() if value is not None}


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
        settings=given.get("settings") or None,
        patch=_number(given.get("patch")),
        arm=_one_of(given.get("arm", given.get("lane")), PRUNED_ARMS),  # "lane" in links of the first version
        word=_number(given.get("word")),
        decoder=_number(given.get("decoder")),
        head=_number(given.get("head")),
        weighted=_number(given.get("weighted")),
    )


def write(link: Link | None) -> None:
    """Put into the address what is shown now; None: a picture that has no address.

    Only what changed is written: each writing sends the whole address to the browser, where the stage may just have put
    another layer or patch into it.
    """
    for name in WRITTEN:
        value = None if link is None else getattr(link, name)
        if value is not None:
            if st.query_params.get(name) != str(value):
                st.query_params[name] = str(value)
        elif name in st.query_params:
            del st.query_params[name]


def show_patch(patch: int) -> None:
    """Put a patch into an address that has none, for a stage that is about to appear: after a visit to another page."""
    if "patch" not in st.query_params:
        st.query_params["patch"] = str(patch)


def _number(text: str | None) -> int | None:
    number = int(text) if text and text.isascii() and text.isdecimal() and len(text) < 11 else None
    return number if number is not None and number <= LARGEST else None


def _one_of(text: str | None, allowed: tuple[str, ...]) -> str | None:
    return text if text in allowed else None
