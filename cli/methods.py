"""`flowcut methods`: every method, its source and stage, and what is done in another way than released."""

from __future__ import annotations

import argparse
from typing import Any

from flowcut.criteria import METHODS
from flowcut.cut import VARIANTS
from flowcut_lens.cli.output import say, say_json
from flowcut_lens.cli.studies import differences, table


def add_command(commands: Any) -> None:
    """Add the command to the command line's parser."""
    methods = commands.add_parser("methods", help="every method, where it comes from, and what it does otherwise")
    methods.set_defaults(run=_methods)
    methods.add_argument("--json", action="store_true", help="write all facts to stdout, as JSON")


def _methods(wanted: argparse.Namespace) -> int:
    if wanted.json:
        facts = {
            name: {
                "label": one.label,
                "source": one.source,
                "stage": one.stage,
                "variants": VARIANTS if one.has_variants else (),
                "settings": {own.name: {"usual": own.usual, "meaning": own.meaning} for own in one.settings},
                "differs": one.all_differences,
            }
            for name, one in METHODS.items()
        }
        say_json(facts)
        return 0
    listed = table(("method", "stage", "source"), [(name, one.stage, one.source) for name, one in METHODS.items()])
    settings = [
        f"{name} --set {own.name}={own.written(own.usual)}: {own.meaning}"
        for name, one in METHODS.items()
        for own in one.settings
    ]
    say("\n".join([listed, *settings, *differences((one.label, one.all_differences) for one in METHODS.values())]))
    return 0
