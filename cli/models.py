"""`flowcut models`: every published model by its family, what it takes, whether this machine has room, what is here."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from flowcut.published import FAMILY_NAMES
from flowcut_lens.cli.output import say, say_json
from flowcut_lens.cli.studies import table

if TYPE_CHECKING:
    from flowcut.models.fit import Fit, Machine

NOTE = (
    "size: about what is fetched, once. memory: what its weights take in 16 bits. fits: they take at most 70% of the "
    "free memory (tight: more, though not more than all), and the disk has room for what is missing. The embedded "
    "model comes with the program and knows drawn scenes only. Other checkpoints of these families: --model FOLDER, or "
    "any id of the Hugging Face hub."
)


def add_command(commands: Any) -> None:
    """Add the command to the command line's parser."""
    models = commands.add_parser("models", help="published models: family, size, whether it fits, what is here of it")
    models.set_defaults(run=_models)
    models.add_argument("--json", action="store_true", help="write all facts to stdout, as JSON")


def _models(wanted: argparse.Namespace) -> int:
    from flowcut.models.fit import fit, machine
    from flowcut.published import published_models

    here = machine()
    fits = [fit(model, here) for model in published_models()]
    if wanted.json:
        say_json(_facts(here, fits))
        return 0
    listed = table(("family", "model", "size", "memory", "fits", "on this machine"), [_row(one, here) for one in fits])
    say("\n".join([listed, _machine_line(here), NOTE]))
    return 0


def _row(one: Fit, here: Machine) -> tuple[str, ...]:
    from flowcut.models.rate import amount

    size = "?" if one.model.size is None else amount(one.model.size.download)
    needs = "?" if one.needs is None else amount(one.needs)
    return (_family(one), one.model.name, size, needs, _fits(one, here), _here(one))


def _family(one: Fit) -> str:
    return FAMILY_NAMES.get(one.model.model_type, one.model.model_type)


def _fits(one: Fit, on: Machine) -> str:
    """Yes, or what is short; a question mark where nobody says."""
    tight = one.memory is False and one.needs is not None and one.needs <= (on.memory or 0)
    short = [name for name, fits in (("memory", tight or one.memory), ("disk", one.disk)) if fits is False]
    if short:
        return f"no: {' and '.join(short)}"
    if None in (one.memory, one.disk):
        return "?"
    return "tight" if tight else "yes"


def _here(one: Fit) -> str:
    from flowcut.models.rate import amount

    if one.here.complete:
        return f"complete, {amount(one.here.bytes)}"
    login = "no; needs a login" if one.model.size is not None and one.model.size.gated else "no"
    return f"{amount(one.here.bytes)} of it; goes on from there" if one.here.bytes else login


def _machine_line(here: Machine) -> str:
    from flowcut.models.rate import amount

    memory = "unknown" if here.memory is None else amount(here.memory)
    disk = "unknown" if here.disk is None else amount(here.disk)
    return f"Free now: memory on {here.device} {memory}; disk {disk} in {here.cache}."


def _facts(here: Machine, fits: list[Fit]) -> dict[str, Any]:
    machine = {"device": here.device, "free_memory": here.memory, "free_disk": here.disk, "cache": str(here.cache)}
    return {"machine": machine, "models": [_model_facts(one) for one in fits]}


def _model_facts(one: Fit) -> dict[str, Any]:
    return {
        "name": one.model.name,
        "family": _family(one),
        "model_type": one.model.model_type,
        "size": None if one.model.size is None else asdict(one.model.size),
        "memory_needed": one.needs,
        "fits_memory": one.memory,
        "fits_disk": one.disk,
        "cached": asdict(one.here),
    }
