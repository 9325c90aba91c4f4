"""Memory that was let go of, given back to the system."""

from __future__ import annotations

import ctypes
from contextlib import suppress


def return_freed() -> None:
    """glibc keeps freed memory until it is asked to return it; other systems have no such call."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
