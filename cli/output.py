"""What a command says on stdout: in whatever coding stdout has, and not lost where it cannot be written."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from pathlib import Path
from typing import Any, TextIO

from flowcut.errors import FlowCutError


class ReaderGone(Exception):
    """Whoever read stdout, such as `head`, has had enough."""


def spell_out() -> None:
    """Have stdout and stderr spell out what their coding has no sign for, as `\\u4f60`, instead of failing at it.

    Where stderr is closed, what is said there is said to nobody: without one it would come to stdout, among the answer.
    """
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  # as long as the program
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            with contextlib.suppress(OSError, ValueError):
                reconfigure(errors="backslashreplace")


def check_out(folder: Path | None) -> None:
    """Let a folder through that can be written, or made: said before the work, not after it.

    Raises:
        FlowCutError: it cannot.
    """
    if folder is None:
        return
    try:
        there = next(one for one in (folder, *folder.absolute().parents) if one.exists())
        if not there.is_dir():
            raise FlowCutError(f"--out is {folder}, and {there} is a file: give a folder, new or old.")
        if not os.access(there, os.W_OK | os.X_OK):
            raise FlowCutError(f"--out is {folder}, and nothing may be written in {there}: give another folder.")
    except OSError as error:  # a name that no file system takes
        raise FlowCutError(f"--out cannot be used ({error.strerror}): give a folder, new or old.") from error


def say(text: str) -> None:
    """Print a text; where stdout's coding lacks some of its signs, that is said on stderr.

    Raises:
        FlowCutError: stdout cannot be written; the text then stands on stderr.
        ReaderGone: nobody reads it any more.
    """
    coding = _coding(sys.stdout)
    if not _fits(text, coding):
        print(
            f"flowcut: stdout takes {coding}, which lacks some of the signs: they are spelt out as \\u and a number; "
            "set PYTHONIOENCODING=utf-8 to have them.",
            file=sys.stderr,
        )
        text = text.encode(coding, "backslashreplace").decode(coding)
    _write(text)


def say_json(facts: Any) -> None:
    """Print facts as JSON, which can spell out any sign itself; raises as `say` does."""
    text = json.dumps(facts, ensure_ascii=False, indent=1)
    _write(text if _fits(text, _coding(sys.stdout)) else json.dumps(facts, indent=1))


def _write(text: str) -> None:
    stream = sys.stdout
    try:
        if stream is None:
            raise OSError("it is closed")
        stream.write(f"{text}\n")
        stream.flush()
    except BrokenPipeError as error:
        _let_go(stream)
        raise ReaderGone from error
    except (OSError, ValueError) as error:  # ValueError: it was closed
        _let_go(stream)
        print(text, file=sys.stderr)
        why = getattr(error, "strerror", None) or error
        raise FlowCutError(f"stdout cannot be written ({why}): what belongs there stands above, on stderr.") from error


def _coding(stream: TextIO | None) -> str:
    return getattr(stream, "encoding", None) or "utf-8"


def _fits(text: str, coding: str) -> bool:
    try:
        text.encode(coding)
    except UnicodeEncodeError:
        return False
    return True


def _let_go(stream: TextIO | None) -> None:
    """Python would try to write the rest again when it ends, and say so in a traceback."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())  # type: ignore[union-attr]  # None has no file to let go of
        os.close(nowhere)
