"""The command line: `flowcut ask PICTURE "QUESTION"`, `compare`, `causal`, `methods`, `models` and `app`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import NoReturn

from flowcut.errors import FlowCutError
from flowcut.threads import share_processors
from flowcut_lens.cli import app, ask, causal, compare, methods, models
from flowcut_lens.cli.output import ReaderGone, spell_out
from flowcut_lens.cli.plugin import load_plugin

BAD_INPUT = 2
INTERRUPTED = 130
READER_GONE = 141
"""What a shell says of a program that wrote where nobody reads."""


class _Parser(argparse.ArgumentParser):
    """Says one sentence on bad input, without the whole usage before it."""

    def error(self, message: str) -> NoReturn:
        self.exit(BAD_INPUT, f"{self.prog}: {message}; see {self.prog} --help.\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status: 0, 2 on bad input, 130 if interrupted, 141 if nobody reads stdout."""
    share_processors()
    spell_out()
    wanted = _parser().parse_args(arguments)
    try:
        if wanted.plugin is not None:
            load_plugin(wanted.plugin)
        return int(wanted.run(wanted))
    except FlowCutError as error:
        print(f"flowcut: {error}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print("flowcut: interrupted.", file=sys.stderr)
        return INTERRUPTED
    except ReaderGone:
        return READER_GONE


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="flowcut", description="Ask a vision-language model, and prune its visual tokens.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=_Parser)
    for command in (ask, compare, causal, methods, models, app):
        command.add_command(commands)
    for name, added in commands.choices.items():
        added.set_defaults(command=name)
        added.add_argument("--plugin", metavar="FILE", help="a Python file that registers methods of your own")
    return parser


if __name__ == "__main__":
    sys.exit(main())
