"""Where pictures and videos come from: bytes, an open file, a regular file's path, an address, a row; never a device.

Whatever a file is called is said in sentences only: no decoder learns its name.
"""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from flowcut.errors import InvalidPicture
from flowcut.media.addresses import content_of, name_of, scheme_of

MAX_BYTES = 2**30
"""Read of a file that cannot be decoded piece by piece; more than the largest picture takes without compression."""
MAX_SHOWN = 120
"""Characters of a path in a sentence."""
MEDIA = ("image", "video")
"""What the columns of data sets are called that hold a medium."""


def plain(source: Any, noun: str) -> Any:
    """What can be opened as it is, of an address or a row of a data set; any other source itself.

    Args:
        source: an http, https or data URL becomes an open file of what it holds; a row of `datasets` its content: a
            mapping with `bytes` or `path`, or with `image` or `video`, which holds one.
        noun: what is looked for, `picture` or `video`.

    Raises:
        InvalidPicture: (a ValueError) the address leads nowhere, or the mapping is no such row.
    """
    if isinstance(source, str) and scheme_of(source):
        return _named(content_of(source), name_of(source))
    return _of_row(source, noun) if isinstance(source, Mapping) else source


def _named(content: bytes, name: str) -> io.BytesIO:
    file = io.BytesIO(content)
    file.name = name  # as files have one
    return file


def _of_row(row: Mapping[Any, Any], noun: str) -> Any:
    """The content of a row; of its path only if it lies on this machine: an address in a table is nobody's wish."""
    content, path = row.get("bytes"), row.get("path")
    if isinstance(content, bytes | bytearray | memoryview):
        return _named(bytes(content), os.path.basename(path) if isinstance(path, str) else "")
    if isinstance(path, str | os.PathLike):
        if scheme_of(str(path)):
            raise InvalidPicture(f"The {noun}'s path is an address ({shown(path)}): give the address itself.")
        return Path(path)
    (column, *_) = (*(name for name in MEDIA if row.get(name) is not None), None)
    if column is not None:
        inner = row[column]
        return _of_row(inner, noun) if isinstance(inner, Mapping) else inner
    keys = ", ".join(str(key)[:20] for key in list(row)[:6]) or "none"
    raise InvalidPicture(
        f"The {noun} is a {type(row).__name__} with the keys {keys}: give one with bytes or path, as data sets do, "
        f"or the {noun} in it."
    )


def shown(path: str | os.PathLike[str]) -> str:
    """A path as a sentence shows it: its ends, if it is long, and nothing that breaks the line."""
    text = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in str(path))
    half = MAX_SHOWN // 2
    return text if len(text) <= MAX_SHOWN else f"{text[:half]} [...] {text[-half:]}"


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
    except Exception as error:  # of whatever library the file is
        why = " ".join(str(error).split()).replace(". ", "; ")[:100] or type(error).__name__
        raise InvalidPicture(f"{name} cannot be read ({why}): open it again, with mode 'rb'.") from error
    if isinstance(content, str):
        raise InvalidPicture(f"{name} is open as text: open it with mode 'rb'.")
    if not isinstance(content, bytes | bytearray | memoryview):
        raise InvalidPicture(f"{name} gives a {type(content).__name__} when it is read: give a file that gives bytes.")
    if len(content) > MAX_BYTES:
        raise InvalidPicture(f"{name} has more than {MAX_BYTES / 2**30:.3g} GiB: give a smaller file.")
    return bytes(content)


def spoken_name(file: Any, otherwise: str) -> str:
    """What an open file is called in a sentence: the last part of its name, if it has one."""
    name = getattr(file, "name", None)
    return shown(os.path.basename(name) if isinstance(name, str) else "") or otherwise


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
    return f"No {noun} at {shown(path)}: {_why_not(path)}; give the path of {wanted}."


def _why_not(path: Path) -> str:
    try:
        if path.is_dir():
            return "it is a folder"
        if path.is_file():
            return "it cannot be read"
        return "it is a device or a pipe" if path.exists() else "there is no such file"
    except (OSError, ValueError):  # a name that no file system takes
        return "there is no such file"
