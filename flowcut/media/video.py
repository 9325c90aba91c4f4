"""Videos in: a file, or a sequence of pictures, becomes a few upright RGB frames, or one sentence that says why not."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from flowcut.errors import InvalidPicture
from flowcut.media.addresses import name_of, scheme_of
from flowcut.media.arrays import as_array
from flowcut.media.containers import FORMATS, START_BYTES, Clock, opened, recognised
from flowcut.media.decoders import MAX_PIXELS
from flowcut.media.frames import pixel_shape, upright
from flowcut.media.picture import MAX_ASPECT, Picture, open_picture
from flowcut.media.sampling import Taken, Timeline, taken_frames, timeline
from flowcut.media.source import open_regular, plain, seekable, spoken_name, start_of

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
ATTACHED_PICTURE = 0x400
"""FFmpeg's flag of a stream that is the cover of the others."""


@dataclass(frozen=True, eq=False)
class Video:
    """A video as it is shown and asked about: frames of one size, in order."""

    frames: tuple[Image.Image, ...]
    """Upright, mode RGB, in their original size."""
    seconds: tuple[float, ...] | None = None
    """When each frame is shown, from the first one that the file shows; None: not known."""
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

    A file is one by its suffix, an address too, an open file also by its content, bytes by their content alone; an
    array or a tensor by its four axes. Nothing is fetched.
    """
    if isinstance(source, Video | list | tuple):
        return True
    if isinstance(source, Mapping):
        return is_video(plain(source, "video"))
    if isinstance(source, str) and scheme_of(source):
        return source.lower().startswith("data:video/") or _is_named_video(name_of(source))
    if isinstance(source, str | os.PathLike):
        return _is_named_video(source)
    if isinstance(source, bytes | bytearray | memoryview):
        return _begins_as_video(bytes(source[:START_BYTES]))
    if getattr(source, "ndim", 0) == 4:
        return True
    named = _is_named_video(str(getattr(source, "name", "")))
    return named or (hasattr(source, "read") and _begins_as_video(start_of(source, START_BYTES)))


def _is_named_video(name: str | os.PathLike[str]) -> bool:
    return Path(name).suffix.lower() in SUFFIXES


def _begins_as_video(start: bytes) -> bool:
    container = recognised(start)
    return container is not None and container.demuxer != "gif"  # an animation is asked about as a picture


def open_video(source: Any, frames: int = 8, most: int | None = None) -> Video:
    """Open a video from a path, an http(s) URL, bytes, an open file, a sequence of pictures, an array or a Video.

    Of a file, those `frames` frames are taken that are shown at even distances of time from its first; where nothing
    new is shown meanwhile a frame is taken again. A sequence is taken as it is.

    Args:
        source: a file's frames are turned and stretched as it says; a sequence holds what `open_picture` takes, all of
            one size; an array is [frames, height, width, 3 or 4], a tensor also [frames, 3 or 4, height, width]; a row
            of `datasets` is opened by its bytes or path.
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
    source = plain(source, "video")
    video = source if isinstance(source, Video) else None
    pictures = source if isinstance(source, list | tuple) else as_array(source)
    if video is None and pictures is not None:
        video = _from_pictures(pictures, most, getattr(source, "shape", ()))
    if video is None:
        video = _from_file(source, frames)
    if len(video.frames) == 1:
        raise InvalidPicture("The video has 1 frame: ask about it as a picture, or give at least 2 frames.")
    if len(video.frames) > most:
        raise InvalidPicture(_too_many(len(video.frames), most))
    return video


def _from_pictures(source: Any, most: int, given: Sequence[int]) -> Video:
    """Frames handed over one by one, or in an array that was given in this shape."""
    if isinstance(source, np.ndarray) and source.ndim != 4:
        raise InvalidPicture(f"The array has shape {tuple(given)}: a video is [frames, height, width, 3 or 4].")
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
            line = _timeline(stream, name, clock)
            _check_pixels(stream, min(frames, len(line.times)), name)
            return _decoded(stream, line, frames, name, clock)
    finally:
        if ours:
            file.close()


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
    if stream is None or _is_cover(stream):
        what = "no pictures, such as a sound file" if stream is None else "a cover picture and no video"
        raise InvalidPicture(f"{name} holds {what}: choose an {FORMATS} file.")
    if stream.codec_context is None:
        raise InvalidPicture(f"{name} is coded in a way that is not known here: save it as MP4 with H.264.")
    stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}  # frames may grow on the way
    return stream


def _is_cover(stream: Any) -> bool:
    return bool(stream.disposition & ATTACHED_PICTURE)


def _timeline(stream: Any, name: str, clock: Clock) -> Timeline:
    """When the frames of a stream are shown, found without decoding; size and length are looked at first."""
    _check_size(stream, name)
    seconds = float(stream.duration * stream.time_base) if stream.duration and stream.time_base else 0.0
    if seconds > MAX_SECONDS:
        raise InvalidPicture(_too_long(name, f"{seconds / 60:.0f} minutes"))
    packets = []
    for packet in stream.container.demux(stream):
        clock.check()
        if packet.size and not packet.is_discard:  # an edit list hides what is discarded
            packets.append((packet.pts, packet.dts, packet.duration))
        if len(packets) > MAX_FRAMES:
            raise InvalidPicture(_too_long(name, f"more than {MAX_FRAMES} frames"))
    clock.check()  # when the time is over, the file seems to end
    if not packets:
        raise InvalidPicture(f"{name} has no frames: choose another file.")
    return timeline(packets, stream.time_base, stream.container.format.name, MAX_SECONDS)


def _check_size(stream: Any, name: str) -> None:
    width, height = stream.codec_context.width, stream.codec_context.height
    if width < 1 or height < 1 or width * height > MAX_PIXELS:
        raise InvalidPicture(f"{name} has frames of {width} x {height} pixels: at most {MAX_PIXELS} pixels are opened.")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise InvalidPicture(f"{name} has frames of {width} x {height} pixels: crop them to at most {MAX_ASPECT} to 1.")


def _too_long(name: str, got: str) -> str:
    return (
        f"{name} lasts {got}: at most {MAX_SECONDS // 60} minutes and {MAX_FRAMES} frames are decoded, so cut it first."
    )


def _check_pixels(stream: Any, frames: int, name: str) -> None:
    """All frames that are taken must fit into memory together."""
    width, height = stream.codec_context.width, stream.codec_context.height
    shape = pixel_shape(stream)
    most = int(MAX_TAKEN_PIXELS // (width * height * max(shape, 1 / shape)))
    if frames > most:
        raise InvalidPicture(
            f"{name} has frames of {width} x {height} pixels, of which {frames} are too many: take at most {most}, or "
            "scale it down first."
        )


def _decoded(stream: Any, line: Timeline, frames: int, name: str, clock: Clock) -> Video:
    """The frames shown at even distances of time, upright and of one size."""
    container, shape = stream.container, pixel_shape(stream)
    container.seek(min(0, container.start_time or 0))
    taken: list[Taken] = []
    pictures: list[Picture] = []
    for one in taken_frames(container.decode(stream), line, frames, clock.check, name):
        picture = pictures[-1] if one.again else upright(one.frame, shape)
        if pictures and picture.size != pictures[0].size:
            first, other = (f"{width} x {height}" for width, height in (pictures[0].size, picture.size))
            raise InvalidPicture(f"{name} changes from {first} to {other} pixels on its way: save it in one size.")
        pictures.append(picture)
        taken.append(replace(one, frame=None))  # a decoded frame is larger than its picture
    known = [one.seconds for one in taken if one.seconds is not None]
    seconds = tuple(known) if len(known) == len(taken) else None
    notes = (*_on_other_videos(container), *_on_sampling(line, taken, frames), *_notes_of(pictures))
    return Video(tuple(picture.image for picture in pictures), seconds, notes)


def _on_other_videos(container: Any) -> tuple[str, ...]:
    count = sum(not _is_cover(stream) for stream in container.streams.video)
    return (f"The file holds {count} videos: the one that players show first was used.",) if count > 1 else ()


def _on_sampling(line: Timeline, taken: Sequence[Taken], frames: int) -> tuple[str, ...]:
    """At which times frames were taken, where that is not all of them."""
    total = len(line.times)
    if total <= frames:
        return ()
    known = [one.seconds for one in taken if one.seconds is not None]
    if len(known) < len(taken):
        return (
            f"Of the video's {total} frames, {len(taken)} were taken at even distances by their number: the times in "
            "the file make no sense.",
        )
    at = ", ".join(f"{seconds:.4g}" for seconds in known[:-1]) + f" and {known[-1]:.4g} s"
    again = sum(one.again for one in taken)
    more = f"; {again} of them show again what was shown before, since nothing new came" if again else ""
    return (f"Of the video's {total} frames, {len(taken)} at even distances in time were taken: at {at}{more}.",)
