"""The peak of this process's resident memory, as Linux counts it."""

from __future__ import annotations

from pathlib import Path

_RESET = Path("/proc/self/clear_refs")
_STATUS = Path("/proc/self/status")
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
    try:
        lines = _STATUS.read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), None)
