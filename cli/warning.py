"""A word on stderr where the embedded model is asked about a picture that it can know nothing of."""

from __future__ import annotations

import argparse
import shlex
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flowcut.media.picture import Picture

EMBEDDED = "embedded"


def warn_of_photograph(wanted: argparse.Namespace, picture: Picture) -> None:
    """Say that the embedded model knows drawn scenes only, and the command with a model that knows more."""
    if wanted.model != EMBEDDED:
        return
    from flowcut.media.drawn import looks_drawn

    if not looks_drawn(picture.image):
        print(f"flowcut: {_sentence(wanted)}", file=sys.stderr)


def _sentence(wanted: argparse.Namespace) -> str:
    from flowcut.models.fit import machine, smallest
    from flowcut.models.rate import amount

    found = smallest(machine(may_import_torch=False))
    known = f"The embedded model knows drawn scenes only and {wanted.image} is not one: its answer means nothing."
    if found is None:
        return f"{known} No published model fits this machine now: flowcut models says what each takes."
    command = shlex.join(["flowcut", wanted.command, wanted.image, wanted.question, "--model", found.model.name])
    where = f"{amount(found.missing)} to fetch once" if found.missing else "it is on this machine"
    return f"{known} For photographs: {command} ({where}; flowcut models lists others)."
