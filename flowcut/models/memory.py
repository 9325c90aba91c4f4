"""Memory in bytes: the peak of what this process has resident, and what is free; as Linux counts them."""

from __future__ import annotations

from pathlib import Path

SHARE_FOR_WEIGHTS = 0.7
"""Of the free memory: activations and the cache need the rest."""
_RESET = Path("/proc/self/clear_refs")
_STATUS = Path("/proc/self/status")
_FREE = Path("/proc/meminfo")
_FORGET_THE_PEAK = "5"
"""proc(5), clear_refs: set the peak of resident memory to what is resident now."""


def reset_peak() -> bool:
    """Begin to count anew; False where the system cannot."""
    try:
        _RESET.write_text(_FORGET_THE_PEAK)
    except OSError:
        return False
    return True


def resident_peak() -> int | None:
    """Bytes at the peak since `reset_peak` (the whole process, all its threads), or None where it is not counted."""
    return _kilobytes(_STATUS, "VmHWM")


def free() -> int | None:
    """Bytes of main memory that a program can still have without swapping, or None where the system does not say."""
    return _kilobytes(_FREE, "MemAvailable")


def _kilobytes(path: Path, name: str) -> int | None:
    """The bytes in a line `name:  1234 kB`."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(name)), None)
