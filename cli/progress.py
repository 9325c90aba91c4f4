"""What is being done, on stderr: a moving bar in a terminal, else a plain line now and then; stdout is the answer's."""

from __future__ import annotations

import sys
import threading
import time
from typing import Self, TextIO

from tqdm.std import tqdm

DRAWN_EVERY = 0.2
"""Seconds between two drawings of the bar; its clock moves while a library works in silence."""
FIRST_LINE = 1.0
"""Seconds of waiting after which a plain line is written, where stderr is no terminal."""
LINES_EVERY = 5.0
"""Seconds between two plain lines, at least."""
KNOWN = "{desc} |{bar:20}| {percentage:3.0f}% [{elapsed}]"
UNKNOWN = "{desc} [{elapsed}]"


class Progress:
    """Shows the latest of what it is given; used as a context, it leaves no trace of its bar at the end.

    Drawing happens on a thread of its own, so that a wait is seen even while nothing reports.
    """

    def __init__(self, quiet: bool = False, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._fraction: float | None = None
        self._text = self._written = ""
        self._ended = threading.Event()
        self._next_line = time.monotonic() + FIRST_LINE
        self._bar = _bar(self._stream) if not quiet and self._stream.isatty() else None
        self._thread = None if quiet else threading.Thread(target=self._draw_forever, name="progress", daemon=True)

    def __enter__(self) -> Self:
        if self._thread is not None:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
        if self._bar is not None:
            self._bar.close()

    def report(self, fraction: float | None, text: str) -> None:
        """Take what is being done now: its share from 0 to 1 (None: not known), and a few words."""
        self._fraction, self._text = fraction, text

    def report_stage(self, stage: str, fraction: float) -> None:
        """The same, as `flowcut.ask` reports its stages."""
        self.report(fraction, f"Answering: {stage}")

    def _draw_forever(self) -> None:
        draw = self._write_line if self._bar is None else self._draw_bar
        while not self._ended.wait(DRAWN_EVERY):
            draw()

    def _draw_bar(self) -> None:
        assert self._bar is not None
        self._bar.bar_format = UNKNOWN if self._fraction is None else KNOWN
        self._bar.n = self._fraction or 0.0
        self._bar.set_description_str(f"flowcut: {self._text}")

    def _write_line(self) -> None:
        now, text = time.monotonic(), self._text
        if now >= self._next_line and text != self._written:
            self._stream.write(f"flowcut: {text} ...\n")
            self._stream.flush()
            self._written, self._next_line = text, now + LINES_EVERY


def _bar(stream: TextIO) -> tqdm:
    return tqdm(total=1.0, desc="flowcut", file=stream, leave=False, bar_format=UNKNOWN, dynamic_ncols=True)
