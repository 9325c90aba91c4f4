"""Which frames of a video file are taken: those shown at even distances of time, whatever the file's frame rate does.

A file is gone through twice. First its packets, without decoding: when is a frame shown, and does the file show it at
all (an edit list hides what was trimmed off). Then it is decoded from its start to the last frame that is wanted.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import Any

from flowcut.errors import InvalidPicture

ROUNDING = 0.1
"""Of a frame's duration, and at most a unit of time: containers that count milliseconds round their times."""
MISSING = 3
"""Frames that may lack at the end, such as those that are coded and never shown."""
WITHOUT_ORDER = ("avi",)
"""Demuxers that number frames as they are stored, which is not the order in which they are shown."""


@dataclass(frozen=True)
class Timeline:
    """When the frames of a file are shown, in order; from packets alone."""

    times: tuple[int, ...]
    """In units of time, or the frames' numbers."""
    end: float
    """When the last frame ends, in the same units."""
    unit: Fraction | None
    """Seconds of a unit; None: the times make no sense, so frames are told apart by their numbers."""
    by_number: bool
    """Whether a decoded frame is found by its number among those decoded, not by the time it carries."""

    @property
    def gap(self) -> float:
        """How long a frame is shown, on average."""
        return (self.end - self.times[0]) / len(self.times)

    def seconds(self, time: float) -> float | None:
        """From the first frame that is shown; None: not known."""
        return None if self.unit is None else float((Fraction(time) - self.times[0]) * self.unit)


def timeline(packets: Sequence[Any], unit: Fraction | None, demuxer: str, most_seconds: float) -> Timeline:
    """When frames are shown.

    Args:
        packets: (presentation time, decoding time, duration) of each that is shown, as stored; None: not known.
        unit: seconds of a unit of these times.
        demuxer: FFmpeg's name of what read them.
        most_seconds: times that span more are not believed.
    """
    decoding = [packet[1] for packet in packets if packet[1] is not None]
    in_order = all(before <= after for before, after in pairwise(decoding))
    shown = [packet[0] if packet[0] is not None else packet[1] for packet in packets]
    stored_only = demuxer in WITHOUT_ORDER
    times = tuple(sorted(time for time in shown if time is not None))
    times = times if stored_only else tuple(dict.fromkeys(times))
    complete = len(times) > 1 and None not in shown
    if unit and complete and in_order:
        last = max(
            (packet[2] or 0 for packet, time in zip(packets, shown, strict=True) if time == times[-1]), default=0
        )
        end = times[-1] + (last or (times[-1] - times[0]) / (len(times) - 1))
        if (end - times[0]) * unit <= most_seconds:
            return Timeline(times, end, unit, stored_only)
    return Timeline(tuple(range(len(packets))), len(packets), None, True)


def wanted_times(line: Timeline, frames: int) -> list[float]:
    """The times that frames are wanted for: all, or as many at even distances from the first."""
    if len(line.times) <= frames:
        return list(line.times)
    return [line.times[0] + (line.end - line.times[0]) * place / frames for place in range(frames)]


@dataclass(frozen=True)
class Taken:
    """One frame that was taken, as PyAV gives it."""

    frame: Any
    seconds: float | None
    """When it is shown; of one that is taken again, the time for which it is."""
    again: bool
    """Whether it is the same frame as the one before it: nothing new was shown meanwhile."""


def taken_frames(
    decoded: Iterator[Any], line: Timeline, frames: int, check: Callable[[], None], name: str
) -> Iterator[Taken]:
    """Of all decoded frames those that are on screen at the wanted times, each as soon as it is known.

    Raises:
        InvalidPicture: (a ValueError) the file ends before the last of them.
    """
    rounding, wanted = min(1.0, ROUNDING * line.gap), wanted_times(line, frames)
    every, place = len(wanted) == len(line.times), 0
    shown: tuple[float, Any] | None = None
    last_taken = None
    for time, frame in _with_times(decoded, line):
        check()
        while place < len(wanted) and shown is not None and wanted[place] + rounding < time:
            if not (every and shown[1] is last_taken):
                yield _taken(shown, wanted[place], last_taken, line)
            last_taken, place = shown[1], place + 1
        shown = (time, frame)
        if place == len(wanted):
            return
    check()
    expected = line.times[bisect_right(line.times, wanted[-1] + rounding) - 1]
    if shown is None or expected - shown[0] > MISSING * line.gap:
        raise InvalidPicture(f"{name} is damaged or cut short, so it cannot be decoded: save or download it again.")
    for late in wanted[place:]:
        if not (every and shown[1] is last_taken):
            yield _taken(shown, late, last_taken, line)
        last_taken = shown[1]


def _taken(shown: tuple[float, Any], wanted: float, last_taken: Any, line: Timeline) -> Taken:
    again = shown[1] is last_taken
    return Taken(shown[1], line.seconds(max(wanted, shown[0]) if again else shown[0]), again)


def _with_times(decoded: Iterator[Any], line: Timeline) -> Iterator[tuple[float, Any]]:
    """Each decoded frame and when it is shown, never before the one before it."""
    latest: float = line.times[0]
    for number, frame in enumerate(decoded):
        by_number = line.times[min(number, len(line.times) - 1)]
        own = by_number if line.by_number or frame.pts is None else frame.pts
        latest = max(latest, own)
        yield latest, frame
