"""Videos in: a file, or a sequence of pictures, becomes a few upright RGB frames, or one sentence that says why not."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from flowcut.errors import InvalidPicture
from flowcut.media.containers import FORMATS, START_BYTES, Clock, opened, recognised
from flowcut.media.picture import MAX_ASPECT, MAX_PIXELS, Picture, open_picture
from flowcut.media.source import open_regular, seekable, spoken_name, start_of

SUFFIXES = (
    ".mp4", ".m4v", ".mov", ".3gp", ".3g2", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".vob", ".ts", ".mts", ".m2ts",
    ".wmv", ".asf", ".flv",
)  # fmt: skip
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

    @cached_property
    def hash(self) -> str:
        """SHA-256 of size, number and pixels of the frames, taken once."""
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
    """Whether a source is to be opened as a video: a Video, a sequence of pictures, or a file of a video's kind.

    A file is one by its suffix, an open file also by its content, bytes by their content alone.
    """
    if isinstance(source, Video | list | tuple):
        return True
    if isinstance(source, np.ndarray):
        return source.ndim == 4
    if isinstance(source, str | os.PathLike):
        return _is_named_video(source)
    if isinstance(source, bytes | bytearray | memoryview):
        return _begins_as_video(bytes(source[:START_BYTES]))
    named = _is_named_video(str(getattr(source, "name", "")))
    return named or (hasattr(source, "read") and _begins_as_video(start_of(source, START_BYTES)))


def _is_named_video(name: str | os.PathLike[str]) -> bool:
    return Path(name).suffix.lower() in SUFFIXES


def _begins_as_video(start: bytes) -> bool:
    container = recognised(start)
    return container is not None and container.demuxer != "gif"  # an animation is asked about as a picture


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
    name, file, ours = _named(source)
    clock = Clock(name)
    try:
        file.seek(0, os.SEEK_END)
        if not file.tell():
            raise InvalidPicture(f"{name} is empty (0 bytes): choose an {FORMATS} file.")
        with opened(file, name, clock) as container:
            stream = _video_stream(container, name)
            total = _count(stream, name, clock)
            wanted = list(range(total)) if total <= frames else [place * total // frames for place in range(frames)]
            _check_pixels(stream, len(wanted), name)
            taken = _decoded(stream, wanted, name, clock)
    finally:
        if ours:
            file.close()
    note = f"Of the video's {total} frames, {len(taken)} at even distances were taken."
    notes = (note,) if len(taken) < total else ()
    return Video(tuple(frame for frame, _ in taken), _times([time for _, time in taken]), notes)


def _named(source: Any) -> tuple[str, Any, bool]:
    """The name to use in a sentence, an open file in which one can go back, and whether it was opened here."""
    file: Any
    if isinstance(source, bytes | bytearray | memoryview):
        name, file, ours = "The video", io.BytesIO(source), True
    elif isinstance(source, str | os.PathLike):
        path = Path(source)
        name, file, ours = path.name or str(path), open_regular(path, "video", f"an {FORMATS} file"), True
    elif hasattr(source, "read"):
        name = spoken_name(source, "The video")
        file, ours = seekable(source, name), False
    else:
        raise InvalidPicture(
            f"The video is a {type(source).__name__}: give a path, bytes, an open file, or its frames."
        )
    return name, file, ours


def _video_stream(container: Any, name: str) -> Any:
    """The stream of pictures that a player would show: not the cover of an album beside it."""
    stream = container.streams.best("video")
    if stream is None:
        raise InvalidPicture(f"{name} holds no pictures, such as a sound file: choose an {FORMATS} file.")
    if stream.codec_context is None:
        raise InvalidPicture(f"{name} is coded in a way that is not known here: save it as MP4 with H.264.")
    stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}  # frames may grow on the way
    return stream


def _count(stream: Any, name: str, clock: Clock) -> int:
    """Frames of a stream, counted without decoding; size and length are looked at first."""
    width, height = stream.codec_context.width, stream.codec_context.height
    if width < 1 or height < 1 or width * height > MAX_PIXELS:
        raise InvalidPicture(f"{name} has frames of {width} x {height} pixels: at most {MAX_PIXELS} pixels are opened.")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise InvalidPicture(f"{name} has frames of {width} x {height} pixels: crop them to at most {MAX_ASPECT} to 1.")
    seconds = float(stream.duration * stream.time_base) if stream.duration and stream.time_base else 0.0
    if seconds > MAX_SECONDS:
        raise InvalidPicture(_too_long(name, f"{seconds / 60:.0f} minutes"))
    total = 0
    for packet in stream.container.demux(stream):
        clock.check()
        total += packet.size > 0
        if total > MAX_FRAMES:
            raise InvalidPicture(_too_long(name, f"more than {MAX_FRAMES} frames"))
    clock.check()  # when the time is over, the file seems to end
    if not total:
        raise InvalidPicture(f"{name} has no frames: choose another file.")
    return total


def _too_long(name: str, got: str) -> str:
    return (
        f"{name} lasts {got}: at most {MAX_SECONDS // 60} minutes and {MAX_FRAMES} frames are decoded, so cut it first."
    )


def _check_pixels(stream: Any, frames: int, name: str) -> None:
    """All frames that are taken must fit into memory together."""
    width, height = stream.codec_context.width, stream.codec_context.height
    most = MAX_TAKEN_PIXELS // (width * height)
    if frames > most:
        raise InvalidPicture(
            f"{name} has frames of {width} x {height} pixels, of which {frames} are too many: take at most {most}, or "
            "scale it down first."
        )


def _decoded(stream: Any, wanted: Sequence[int], name: str, clock: Clock) -> list[tuple[Image.Image, float | None]]:
    """The frames at these places, upright and of one size, and when each is shown."""
    stream.container.seek(0)
    taken: list[tuple[Image.Image, float | None]] = []
    places = set(wanted)
    for place, frame in enumerate(stream.container.decode(stream)):
        clock.check()
        if place in places:
            taken.append((_upright(frame, taken[0][0].size if taken else None, name), frame.time))
        if place >= wanted[-1]:
            break
    clock.check()
    if len(taken) < len(wanted):
        raise InvalidPicture(f"{name} is damaged or cut short, so it cannot be decoded: save or download it again.")
    return taken


def _upright(frame: Any, size: tuple[int, int] | None, name: str) -> Image.Image:
    """One decoded frame as a picture, of the size of those before it."""
    image = open_picture(frame.to_image().rotate(frame.rotation, expand=True)).image
    if size not in (None, image.size):
        first, other = (f"{width} x {height}" for width, height in (size, image.size))
        raise InvalidPicture(f"{name} changes from {first} to {other} pixels on its way: save it in one size.")
    return image


def _times(times: Sequence[float | None]) -> tuple[float, ...] | None:
    known = [time for time in times if time is not None]
    return tuple(known) if len(known) == len(times) else None
