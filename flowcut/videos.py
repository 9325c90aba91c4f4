"""Videos in: a file, or a sequence of pictures, becomes a few upright RGB frames, or one sentence that says why not."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from flowcut.errors import InvalidPicture
from flowcut.images import MAX_ASPECT, MAX_PIXELS, Picture, open_picture

SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg")
FORMATS = "MP4, MOV, MKV, WebM, AVI or MPEG"
MAX_SECONDS = 600
"""A video is decoded from its start to its last sampled frame, on the CPU."""
MAX_FRAMES = 36_000
"""The same at 60 frames a second."""
MAX_TAKEN_PIXELS = 400_000_000
"""Of all frames that are taken of a file: held in memory together, 1.2 GB."""


@dataclass(frozen=True, eq=False)
class Video:
    """A video as it is shown and asked about: frames of one size, in order."""

    frames: tuple[Image.Image, ...]
    """Upright, mode RGB, in their original size."""
    seconds: tuple[float, ...] | None = None
    """When each frame is shown, from the start of the file; None: not known."""
    notes: tuple[str, ...] = ()
    """What was changed to make it so, one sentence each."""

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of a frame in pixels."""
        return self.frames[0].size

    @property
    def image(self) -> Image.Image:
        """The frame that stands for it where one picture is shown: the first."""
        return self.frames[0]

    @property
    def hash(self) -> str:
        """SHA-256 of size, number and pixels of the frames."""
        width, height = self.size
        digest = hashlib.sha256(f"{width}x{height}x{len(self.frames)}".encode())
        for frame in self.frames:
            digest.update(frame.tobytes())
        return digest.hexdigest()

    @property
    def frames_a_second(self) -> float | None:
        """Of the frames taken, not of the file; None: not known."""
        if self.seconds is None or self.seconds[-1] <= self.seconds[0]:
            return None
        return (len(self.seconds) - 1) / (self.seconds[-1] - self.seconds[0])

    def array(self) -> np.ndarray:
        """uint8 [frames, height, width, 3]."""
        return np.stack([np.asarray(frame) for frame in self.frames])


def is_video(source: Any) -> bool:
    """Whether a source is to be opened as a video: a Video, a sequence of pictures, or a file of a video's kind."""
    if isinstance(source, Video | list | tuple):
        return True
    if isinstance(source, np.ndarray):
        return source.ndim == 4
    if isinstance(source, str | os.PathLike):
        return Path(source).suffix.lower() in SUFFIXES
    if isinstance(source, bytes | bytearray | memoryview):
        return _looks_like_video(bytes(source[:16]))
    return Path(str(getattr(source, "name", ""))).suffix.lower() in SUFFIXES


def open_video(source: Any, frames: int = 8, most: int | None = None) -> Video:
    """Open a video from a path, bytes, an open binary file, a sequence of pictures, an array or a Video.

    Of a file, `frames` frames are taken at even distances from its start; a sequence is taken as it is.

    Args:
        source: a file's frames are turned as it says; a sequence holds what `open_picture` takes, all of one size; an
            array is [frames, height, width, 3 or 4].
        frames: how many to take of a file; all, where it has no more.
        most: more than these are refused; None: `frames`.

    Raises:
        InvalidPicture: (a ValueError) one sentence: what was got, what is allowed, what to do.
    """
    most = frames if most is None else most
    if frames < 1:
        raise InvalidPicture(f"frames is {frames}: take at least 1 of a video.")
    if frames > most:
        raise InvalidPicture(f"frames is {frames}: take at most {most}.")
    video = source if isinstance(source, Video) else None
    if video is None and isinstance(source, list | tuple | np.ndarray):
        video = _from_pictures(source, most)
    if video is None:
        video = _from_file(source, frames)
    if len(video.frames) == 1:
        raise InvalidPicture("The video has 1 frame: ask about it as a picture, or give at least 2 frames.")
    if len(video.frames) > most:
        raise InvalidPicture(_too_many(len(video.frames), most))
    return video


def _from_pictures(source: Any, most: int) -> Video:
    """Frames handed over one by one."""
    if isinstance(source, np.ndarray) and source.ndim != 4:
        raise InvalidPicture(f"The array has shape {source.shape}: a video is [frames, height, width, 3 or 4].")
    if not len(source):
        raise InvalidPicture("The video has no frames: give at least 2.")
    if len(source) > most:
        raise InvalidPicture(_too_many(len(source), most))
    opened = [open_picture(frame) for frame in source]
    sizes = list(dict.fromkeys(picture.size for picture in opened))
    if len(sizes) > 1:
        first, other = (f"{width} x {height}" for width, height in sizes[:2])
        raise InvalidPicture(f"The frames are of {first} and {other} pixels: give frames of one size.")
    return Video(tuple(picture.image for picture in opened), notes=_notes_of(opened))


def _notes_of(pictures: Sequence[Picture]) -> tuple[str, ...]:
    """The notes of all frames, each sentence once."""
    return tuple(dict.fromkeys(note for picture in pictures for note in picture.notes))


def _too_many(got: int, most: int) -> str:
    return f"The video has {got} frames, and at most {most} are taken: leave some out, or give the file."


def _from_file(source: Any, frames: int) -> Video:
    name, content = _named(source)
    with _opened(content, name) as stream:
        total = _count(stream, name)
        wanted = list(range(total)) if total <= frames else [place * total // frames for place in range(frames)]
        _check_pixels(stream, len(wanted), name)
        taken = _decoded(stream, wanted, name)
    note = f"Of the video's {total} frames, {len(taken)} at even distances were taken."
    notes = (note,) if len(taken) < total else ()
    return Video(tuple(frame for frame, _ in taken), _times([time for _, time in taken]), notes)


def _named(source: Any) -> tuple[str, Any]:
    """The name to use in a sentence, and what the decoder opens."""
    if isinstance(source, bytes | bytearray | memoryview):
        name, content = "The video", bytes(source)
        if not content:
            raise InvalidPicture(f"{name} is empty (0 bytes): choose a {FORMATS} file.")
        return name, io.BytesIO(content)
    if isinstance(source, str | os.PathLike):
        path = Path(source)
        try:
            if not path.stat().st_size:
                raise InvalidPicture(f"{path.name} is empty (0 bytes): choose a {FORMATS} file.")
        except (OSError, ValueError) as error:
            raise InvalidPicture(f"No video at {path}: there is no such file; give the path of a file.") from error
        return path.name, str(path)
    if hasattr(source, "read"):
        return str(getattr(source, "name", "The video")), source
    raise InvalidPicture(f"The video is a {type(source).__name__}: give a path, bytes, an open file, or its frames.")


@contextmanager
def _opened(content: Any, name: str) -> Iterator[Any]:
    """The file's first video stream."""
    try:
        import av
    except ImportError as error:
        raise InvalidPicture(
            "Video files are decoded with PyAV, which is not installed: run pip install av."
        ) from error
    try:
        with av.open(content) as container:
            if not container.streams.video:
                raise InvalidPicture(f"{name} holds no pictures, such as a sound file: choose a {FORMATS} file.")
            yield container.streams.video[0]
    except (av.error.FFmpegError, UnicodeError) as error:
        raise InvalidPicture(
            f"{name} is not a video that can be decoded: choose a {FORMATS} file, or save it again."
        ) from error


def _count(stream: Any, name: str) -> int:
    """Frames of a stream, counted without decoding; size and length are looked at first."""
    width, height = stream.codec_context.width, stream.codec_context.height
    if width < 1 or height < 1 or width * height > MAX_PIXELS:
        raise InvalidPicture(f"{name} has frames of {width} x {height} pixels: at most {MAX_PIXELS} pixels are opened.")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise InvalidPicture(f"{name} has frames of {width} x {height} pixels: crop them to at most {MAX_ASPECT} to 1.")
    seconds = float(stream.duration * stream.time_base) if stream.duration else 0.0
    total = sum(1 for packet in stream.container.demux(stream) if packet.size)
    if seconds > MAX_SECONDS or total > MAX_FRAMES:
        length = f"{seconds / 60:.0f} minutes" if seconds > MAX_SECONDS else f"{total} frames"
        raise InvalidPicture(
            f"{name} lasts {length}: at most {MAX_SECONDS // 60} minutes and {MAX_FRAMES} frames are decoded, so cut "
            "it first."
        )
    if not total:
        raise InvalidPicture(f"{name} has no frames: choose another file.")
    return total


def _check_pixels(stream: Any, frames: int, name: str) -> None:
    """All frames that are taken must fit into memory together."""
    width, height = stream.codec_context.width, stream.codec_context.height
    most = MAX_TAKEN_PIXELS // (width * height)
    if frames > most:
        raise InvalidPicture(
            f"{name} has frames of {width} x {height} pixels, of which {frames} are too many: take at most {most}, or "
            "scale it down first."
        )


def _decoded(stream: Any, wanted: Sequence[int], name: str) -> list[tuple[Image.Image, float | None]]:
    """The frames at these places, upright, and when each is shown."""
    stream.container.seek(0)
    taken, places = [], set(wanted)
    for place, frame in enumerate(stream.container.decode(stream)):
        if place in places:
            upright = open_picture(frame.to_image().rotate(frame.rotation, expand=True))
            taken.append((upright.image, frame.time))
        if place >= wanted[-1]:
            break
    if len(taken) < len(wanted):
        raise InvalidPicture(f"{name} is damaged or cut short, so it cannot be decoded: save or download it again.")
    return taken


def _times(times: Sequence[float | None]) -> tuple[float, ...] | None:
    known = [time for time in times if time is not None]
    return tuple(known) if len(known) == len(times) else None


def _looks_like_video(start: bytes) -> bool:
    """By the first bytes: MP4 and MOV (not AVIF or HEIC, which are pictures), Matroska and WebM, AVI, MPEG."""
    if start[4:8] == b"ftyp":
        return start[8:12] not in (b"avif", b"avis", b"heic", b"heix", b"mif1", b"msf1")
    return start.startswith((b"\x1aE\xdf\xa3", b"\x00\x00\x01\xba")) or (
        start[:4] == b"RIFF" and start[8:12] == b"AVI "
    )
