"""A model for photographs, in one click: offered where the embedded one is to look at what it was never shown."""

from __future__ import annotations

import streamlit as st
from huggingface_hub import constants

from flowcut.models import fit
from flowcut.models.fit import Fit, Machine
from flowcut.models.rate import amount, how_long
from flowcut_lens.app.components.formatting import escape_markdown
from flowcut_lens.app.jobs.runtime import runtime
from flowcut_lens.app.state import session

KNOWS_SCENES_ONLY = (
    "This picture is not one of the drawn scenes, and the embedded model knows drawn scenes only: its answers about it "
    "mean nothing, though the flow you see is really its own."
)


def offer() -> None:
    """What the embedded model cannot do, and a button that takes the smallest published model that fits."""
    machine = fit.machine(may_import_torch=runtime().models.any_loaded)
    found = fit.smallest(machine)
    with st.container(border=True, key="offer"):
        st.markdown(f":material/info: {KNOWS_SCENES_ONLY}")
        if found is None:
            st.markdown(escape_markdown(_nothing_fits(machine)))
        elif found.missing and constants.HF_HUB_OFFLINE:
            st.markdown(escape_markdown(_offline(found)))
        else:
            st.button(
                _words(found), type="primary", icon=":material/download:" if found.missing else ":material/bolt:",
                on_click=session.ask_with, args=(found.model.name,), key="take_offer",
            )  # fmt: skip
            st.caption(escape_markdown(_facts(found, machine)))


def _words(found: Fit) -> str:
    """What the button does."""
    short = found.model.name.split("/")[-1]
    if not found.missing:
        return f"Ask {short}, which is on this machine"
    begun = "Go on fetching" if found.here.bytes else "Fetch"
    return f"{begun} {short} and ask it: {amount(found.missing)}"


def _facts(found: Fit, machine: Machine) -> str:
    """Why this one."""
    here = "of those that are here already" if not found.missing else "that fits this machine"
    parts = [f"{found.model.name} is the smallest published model {here}."]
    if found.needs is not None and machine.memory is not None:
        where = {"cpu": "of memory", "cuda": "of the GPU's memory"}.get(machine.device, "of memory")
        parts.append(f"Its weights take {amount(found.needs)} or more {where}, {amount(machine.memory)} are free.")
    if found.missing and machine.disk is not None:
        parts.append(f"On the disk {amount(machine.disk)} are free.")
    rate = runtime().downloads.last_rate
    if found.missing and rate:
        parts.append(f"At the rate of the last download, {amount(rate)}/s, it takes {how_long(found.missing / rate)}.")
    if found.missing:
        parts.append(
            "It comes from the Hugging Face hub, once, to the machine that runs this page; your picture stays here. "
            "You can stop it, and it goes on later from where it was."
        )
    return " ".join(parts)


def _nothing_fits(machine: Machine) -> str:
    free = [
        f"{amount(size)} {where}"
        for size, where in ((machine.memory, "of memory"), (machine.disk, f"of disk in {machine.cache}"))
        if size is not None
    ]
    return (
        f"No published model fits this machine now ({' and '.join(free)} are free): free some, or give the folder of a "
        "model on the left."
    )


def _offline(found: Fit) -> str:
    return (
        "HF_HUB_OFFLINE is set and no published model that fits is on this machine, so none can be fetched: unset it "
        f"to fetch {found.model.name} ({amount(found.missing or 0)}), or give the folder of a model on the left."
    )
