"""Errors as a visitor reads them."""

from __future__ import annotations

import logging

log = logging.getLogger(__name__)


def explain(error: Exception) -> str:
    """One sentence for the person who asked; what is no error of theirs goes to the log in full."""
    from flowcut.errors import FlowCutError

    if isinstance(error, FlowCutError):
        return str(error)
    log.error("An unexpected error ended a job", exc_info=error)
    if type(error).__name__ in ("OutOfMemoryError", "MemoryError"):
        return "The device ran out of memory: choose a smaller model or ask for fewer new tokens, then ask again."
    return f"Something went wrong inside ({type(error).__name__}: {error}): ask again, or choose another picture."
