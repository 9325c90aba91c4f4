"""Where pictures and videos come from: bytes, an open file, or a regular file's path; never a device or an address.

Whatever a file is called is said in sentences only: no decoder learns its name.
"""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any, BinaryIO

from flowcut.errors import InvalidPicture

MAX_BYTES = 2**30
"""Read of a file that cannot be decoded piece by piece; more than the largest picture takes without compression."""


def open_regular(path: Path, noun: str, wanted: str) -> BinaryIO:
    """A regular file, open for reading; devices and pipes, which may never end or never answer, are refused.

    Args:
        noun: what is looked for, `picture` or `video`.
        wanted: what it may be, for the sentence, such as `a PNG file`.

    Raises:
        InvalidPicture: (a ValueError) there is no such file, or it cannot be read.
    """
    try:
        if path.is_file():
            return path.open("rb")
    except (OSError, ValueError) as error:  # ValueError: a name that no file system takes
        raise InvalidPicture(_nothing_there(path, noun, wanted)) from error
    raise InvalidPicture(_nothing_there(path, noun, wanted))


def read_bounded(file: Any, name: str) -> bytes:
    """An open file from its start, or from where it is if one cannot go back in it.

    Raises:
        InvalidPicture: (a ValueError) it is open as text, closed, or has no end within MAX_BYTES.
    """
    try:
        if _goes_back(file):
            file.seek(0)
        content = file.read(MAX_BYTES + 1)
    except UnicodeError:
        content = ""
    except (OSError, ValueError) as error:
        raise InvalidPicture(f"{name} cannot be read ({error}): open it again, with mode 'rb'.") from error
    if isinstance(content, str):
        raise InvalidPicture(f"{name} is open as text: open it with mode 'rb'.")
    if len(content) > MAX_BYTES:
        raise InvalidPicture(f"{name} has more than {MAX_BYTES / 2**30:.3g} GiB: give a smaller file.")
    return bytes(content)


def spoken_name(file: Any, otherwise: str) -> str:
    """What an open file is called in a sentence: the last part of its name, if it has one."""
    name = getattr(file, "name", None)
    return (os.path.basename(name) if isinstance(name, str) else "") or otherwise


def seekable(file: Any, name: str) -> Any:
    """The file itself if one can go back in it, else all of it in memory; raises as `read_bounded` does."""
    try:
        goes_back = _goes_back(file) and isinstance(file.read(0), bytes)
    except (OSError, ValueError):  # read_bounded says why
        goes_back = False
    return file if goes_back else io.BytesIO(read_bounded(file, name))


def start_of(file: Any, count: int) -> bytes:
    """The first bytes of an open file, which is then where it was; none if one cannot go back in it."""
    try:
        if not _goes_back(file):
            return b""
        place = file.tell()
        file.seek(0)
        start = file.read(count)
        file.seek(place)
    except (OSError, ValueError):
        return b""
    return start if isinstance(start, bytes) else b""


def _goes_back(file: Any) -> bool:
    return hasattr(file, "seek") and (not hasattr(file, "seekable") or file.seekable())


def _nothing_there(path: Path, noun: str, wanted: str) -> str:
    return f"No {noun} at {path}: {_why_not(path)}; give the path of {wanted}."


def _why_not(path: Path) -> str:
    try:
        if path.is_dir():
            return "it is a folder"
        if path.is_file():
            return "it cannot be read"
        return "it is a device or a pipe" if path.exists() else "there is no such file"
    except (OSError, ValueError):  # a name that no file system takes
        return "there is no such file"
