"""Video files, opened so that nothing but their own bytes can be reached.

FFmpeg can open far more than videos: lists of other files, subtitles, devices, addresses; and it resolves the names in
them against the name that it is given. So a file is opened only if its first bytes are those of a container below; the
demuxer is named, never guessed; FFmpeg is given bytes and no name; and every way from there to anything else is shut.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NoReturn

from flowcut.errors import InvalidPicture
from flowcut.media.decoders import DAMAGED, MAX_PIXELS, PICTURE_BRANDS

FORMATS = "MP4, MOV, 3GP, MKV, WebM, AVI, MPEG, TS, WMV or FLV"
START_BYTES = 1400
"""Needed to recognise a container: packets of a transport stream, of which a recording may begin with a part of one."""
MAX_STREAMS = 32
"""Pictures, sounds and subtitles in one file."""
MAX_DECODING_SECONDS = 120.0
"""Spent on one file, by the clock: on two slow cores ten minutes of full HD."""

ATOMS = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot", b"uuid", b"udta", b"junk", b"styp")
"""What a QuickTime file may begin with."""
PACKET = 188
"""Bytes of a packet of a transport stream."""


@dataclass(frozen=True)
class Container:
    """A kind of file that holds streams of pictures."""

    demuxer: str
    """FFmpeg's name for what reads it."""
    begins: Callable[[bytes], bool]
    """Whether these are the first bytes of such a file."""


CONTAINERS = (
    Container("mov", lambda start: start[4:8] in ATOMS and start[8:12] not in PICTURE_BRANDS),
    Container("matroska", lambda start: start.startswith(b"\x1aE\xdf\xa3")),
    Container("avi", lambda start: start[:4] == b"RIFF" and start[8:12] == b"AVI "),
    Container("mpeg", lambda start: start.startswith(b"\x00\x00\x01\xba")),
    Container("mpegts", lambda start: _has_packets(start, PACKET) or _has_packets(start, PACKET + 4, 4)),
    Container("asf", lambda start: start.startswith(bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c"))),
    Container("flv", lambda start: start.startswith(b"FLV\x01")),
    Container("gif", lambda start: start.startswith((b"GIF87a", b"GIF89a"))),
)
"""All that are opened; an animated GIF only where a video is asked for by name."""


def recognised(start: bytes) -> Container | None:
    """The container that a file with these first bytes is; None: none that is opened."""
    return next((container for container in CONTAINERS if container.begins(start)), None)


class Clock:
    """How long one file may take."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._end = time.monotonic() + MAX_DECODING_SECONDS

    @property
    def is_over(self) -> bool:
        """Whether it took too long."""
        return time.monotonic() > self._end

    def check(self) -> None:
        """Go on only within the time.

        Raises:
            InvalidPicture: (a ValueError) it took too long.
        """
        if self.is_over:
            raise InvalidPicture(
                f"{self._name} takes more than {MAX_DECODING_SECONDS:g} seconds to decode: cut it, or scale it down "
                "first."
            )


class _Bytes:
    """A file as FFmpeg sees it: bytes without a name, which end when the time is over.

    Nothing is raised in here: PyAV would keep the exception and raise it at whatever this thread opens next.
    """

    def __init__(self, file: Any, clock: Clock) -> None:
        self._file, self._clock = file, clock

    def read(self, size: int) -> bytes:
        try:
            return b"" if self._clock.is_over else self._file.read(size)
        except (OSError, ValueError):
            return b""

    def seek(self, offset: int, whence: int = 0) -> int:
        try:
            return int(self._file.seek(offset, whence))
        except (OSError, ValueError):  # before the start, as a damaged file may say
            return -1

    def tell(self) -> int:
        return int(self._file.tell())


@contextmanager
def opened(file: Any, name: str, clock: Clock) -> Iterator[Any]:
    """A file of one of the containers, as PyAV's `InputContainer`.

    Args:
        file: open, seekable, of bytes; read from its start.
        name: what it is called in a sentence.

    Raises:
        InvalidPicture: (a ValueError) it is no such container, is damaged, or has too many streams; also for whatever
            PyAV raises inside the `with`.
    """
    try:
        import av
    except ImportError as error:
        raise InvalidPicture(
            "Video files are decoded with PyAV, which is not installed: run pip install av."
        ) from error
    file.seek(0)
    container = recognised(file.read(START_BYTES))
    file.seek(0)
    if container is None:
        raise InvalidPicture(_cannot_be_decoded(name))
    try:
        with av.open(
            _Bytes(file, clock),
            format=container.demuxer,
            options=_nothing_else(container.demuxer),
            metadata_errors="replace",
            io_open=_refuse,
        ) as streams:
            _check_streams(streams, name)
            yield streams
    except InvalidPicture:
        raise
    except (av.error.FFmpegError, ArithmeticError, AssertionError, AttributeError, *DAMAGED) as error:
        clock.check()
        raise InvalidPicture(_cannot_be_decoded(name)) from error


def _nothing_else(demuxer: str) -> dict[str, str]:
    """FFmpeg's options that shut its ways to other files, formats and devices, and bound its decoders."""
    return {
        "protocol_whitelist": "none",  # there is no protocol of this name
        "format_whitelist": demuxer,
        "enable_drefs": "0",
        "use_absolute_path": "0",
        "max_pixels": str(MAX_PIXELS),
    }


def _refuse(*args: Any, **options: Any) -> NoReturn:
    """Called by FFmpeg for any other file that it would open."""
    raise PermissionError("A video opens no other file.")


def _check_streams(container: Any, name: str) -> None:
    if len(container.streams) > MAX_STREAMS:
        raise InvalidPicture(
            f"{name} holds {len(container.streams)} streams: at most {MAX_STREAMS} are opened, so keep the video alone."
        )


def _cannot_be_decoded(name: str) -> str:
    return f"{name} is not a video that can be decoded: choose an {FORMATS} file, or save it again."


def _has_packets(start: bytes, step: int, usual: int = 0) -> bool:
    """Whether packets of a transport stream, so many bytes each, begin with its sync byte.

    Three of them where they usually begin; elsewhere, where a recording begins within a packet, six.
    """
    if _are_sync(start, range(usual, min(len(start), usual + 3 * step), step), 2):
        return True
    return any(_are_sync(start, range(first, len(start), step), 6) for first in range(step))


def _are_sync(start: bytes, places: range, least: int) -> bool:
    return len(places) >= least and all(start[place] == 0x47 for place in places)
