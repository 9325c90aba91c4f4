"""PNG files without the texts and profiles in them: Pillow refuses large ones, and calls them damage."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

SIGNATURE = b"\x89PNG\r\n\x1a\n"
LONGEST_TEXT = 2**20
"""Bytes of a text that Pillow unpacks."""
TEXTS = (b"tEXt", b"zTXt", b"iTXt")
TURNING = (b"XML:com.adobe.xmp\0", b"Raw profile type exif\0", b"Raw profile type APP1\0")
"""What texts begin with that may say how the picture is held."""


def without_metadata(content: bytes) -> bytes:
    """The file without what nothing here looks at: its colour profile, and texts that say nothing of how it is held.

    Any other file, and a PNG that has no such parts, is given back as it is.
    """
    if not content.startswith(SIGNATURE):
        return content
    kept, place, dropped = [SIGNATURE], len(SIGNATURE), False
    for kind, start, end in _chunks(content):
        if kind == b"iCCP" or (kind in TEXTS and not _is_needed(kind, content[start + 8 : end - 4])):
            dropped = True
        else:
            kept.append(content[start:end])
        place = end
    return b"".join((*kept, content[place:])) if dropped else content


def _chunks(content: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Name, start and end of each part that is there as a whole."""
    place = len(SIGNATURE)
    while place + 12 <= len(content):
        (length,) = struct.unpack_from(">I", content, place)
        end = place + 12 + length
        if end > len(content):
            return
        yield content[place + 4 : place + 8], place, end
        place = end


def _is_needed(kind: bytes, text: bytes) -> bool:
    """Whether a text may say how the picture is held, and is one that Pillow reads."""
    if not text.startswith(TURNING) or len(text) > LONGEST_TEXT:
        return False
    packed = text.partition(b"\0")[2]
    if kind == b"zTXt":
        return _unpacks(packed[1:])
    if kind == b"iTXt" and packed[:1] == b"\x01":
        return _unpacks(packed[2:].partition(b"\0")[2].partition(b"\0")[2])
    return True


def _unpacks(packed: bytes) -> bool:
    unpacker = zlib.decompressobj()
    try:
        unpacker.decompress(packed, LONGEST_TEXT)
    except zlib.error:
        return False
    return not unpacker.unconsumed_tail
