"""A Python file of the user's own, run before a command: it registers methods with `flowcut.register_method`."""

from __future__ import annotations

import runpy
import traceback

from flowcut.criteria import METHODS
from flowcut.errors import FlowCutError


def load_plugin(file: str) -> None:
    """Run the file; what it registers is there for this command, and for the page that `flowcut app` serves.

    Raises:
        FlowCutError: it cannot be read, stops with an error, or registers no method.
    """
    before = dict(METHODS)
    try:
        runpy.run_path(file, run_name="flowcut_plugin")
    except OSError as error:
        raise FlowCutError(f"--plugin {file} cannot be read ({error.strerror}): give a Python file.") from error
    except FlowCutError as error:
        raise FlowCutError(f"--plugin {file}: {error}") from error
    except Exception as error:
        said = " ".join(f"{type(error).__name__}: {error}".split())
        raise FlowCutError(f"--plugin {file} stopped at line {_line(file, error)} ({said}).") from error
    if before == METHODS:
        raise FlowCutError(f"--plugin {file} registers no method: call flowcut.register_method in it.")


def _line(file: str, error: Exception) -> int | None:
    """Where in the file it stopped, be it in a library that was called there."""
    if isinstance(error, SyntaxError):
        return error.lineno
    return next(f.lineno for f in reversed(traceback.extract_tb(error.__traceback__)) if f.filename == file)
