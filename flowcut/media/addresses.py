"""Addresses: what lies behind an http or https one that somebody gave, and what a data URL holds.

Nothing is fetched but what a caller or the command line was given as an address itself; the app hands over bytes alone.
"""

from __future__ import annotations

import base64
import binascii
import re
from urllib.parse import unquote, unquote_to_bytes, urlsplit

from flowcut.errors import InvalidPicture

ADDRESS = re.compile(r"\s*([a-z][a-z0-9+.-]{1,19}):/{1,3}(?=[^/\\])", re.IGNORECASE)
"""A scheme of two letters or more: one letter is a drive."""


def scheme_of(text: str) -> str | None:
    """`https`, `data`, `s3` and so on, if a text is an address; None: it is a path."""
    if text[:5].lower() == "data:":
        return "data"
    found = ADDRESS.match(text) if "://" in text[:24] else None
    return found[1].lower() if found else None


def name_of(address: str) -> str:
    """What an address is called in a sentence: the last part of its path, else its host; never its query."""
    if scheme_of(address) == "data":
        return "The data URL"
    try:
        parts = urlsplit(address)
        return unquote(parts.path).rstrip("/").rpartition("/")[2][-80:] or parts.hostname or "The address"
    except ValueError:
        return "The address"


def content_of(address: str) -> bytes:
    """What a data URL holds, or what lies behind an http or https address.

    Raises:
        InvalidPicture: (a ValueError) one sentence: it is of another kind, leads nowhere, or holds too much.
    """
    scheme = scheme_of(address)
    if scheme == "data":
        return _of_data_url(address)
    if scheme in ("http", "https"):
        from flowcut.media.fetching import fetched  # brings in TLS, which no file needs

        return fetched(address.strip(), name_of(address))
    advice = "give the path alone" if scheme == "file" else "fetch it, and give the path of the file"
    raise InvalidPicture(f"{name_of(address)} lies at a {scheme} address, and only http and https are read: {advice}.")


def _of_data_url(address: str) -> bytes:
    head, comma, data = address.partition(",")
    if not comma:
        raise InvalidPicture("The data URL has no comma, behind which its data begin: copy it again as a whole.")
    if not head.lower().rstrip().endswith(";base64"):
        return unquote_to_bytes(data)
    plain = "".join(unquote(data).split()).replace("-", "+").replace("_", "/")
    try:
        return base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidPicture("The data URL's base64 is broken or cut short: copy it again as a whole.") from error
