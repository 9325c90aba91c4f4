"""Sizes, and how fast a download is, in words."""

from __future__ import annotations

import time
from collections import deque
from typing import ClassVar

RATE_SECONDS = 8.0
"""The rate is the mean of so many seconds."""
FIRST_SECONDS = 1.0
"""Earlier than that no rate is said."""
_UNITS = ("B", "kB", "MB", "GB", "TB")


def amount(size: float, like: float | None = None) -> str:
    """Bytes with three digits and a unit: `1.03 GB`; with `like` in the unit of that size, and without its name."""
    step, scale = 0, size if like is None else like
    while abs(scale) >= 999.5 and step < len(_UNITS) - 1:
        scale, size, step = scale / 1000, size / 1000, step + 1
    digits = 0 if step == 0 else 2 if abs(scale) < 9.995 else 1 if abs(scale) < 99.95 else 0
    return f"{size:.{digits}f}" + (f" {_UNITS[step]}" if like is None else "")


def how_long(seconds: float) -> str:
    """A coarse time: `20 s`, `4 min`, `1 h 10 min`, `30 h`."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min" if minutes < 600 else f"{round(minutes / 60)} h"


class Rate:
    """How fast something grows, from the last seconds."""

    last: ClassVar[float | None] = None
    """Bytes a second as last seen in this process; None: nothing was fetched yet."""

    def __init__(self, start: int) -> None:
        self._seen = deque([(time.monotonic(), start)])

    def note(self, done: int) -> float | None:
        """Take in how far it is now; bytes a second, None while too little is known."""
        now = time.monotonic()
        self._seen.append((now, done))
        while now - self._seen[0][0] > RATE_SECONDS and len(self._seen) > 2:
            self._seen.popleft()
        passed, before = now - self._seen[0][0], self._seen[0][1]
        if passed < FIRST_SECONDS:
            return None
        rate = (done - before) / passed
        Rate.last = rate or Rate.last
        return rate

    def words(self, done: int, total: int) -> str:
        """`Downloading 0.41 of 1.03 GB, 12.0 MB/s, about 52 s left`."""
        text, rate = f"Downloading {amount(done, like=total)} of {amount(total)}", self.note(done)
        if rate is None or done >= total:
            return text
        if rate <= 0:
            return f"{text}, waiting for the network"
        return f"{text}, {amount(rate)}/s, about {how_long((total - done) / rate)} left"
