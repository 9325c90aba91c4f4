"""Fetching a picture or video whose address somebody gave: http and https, within limits of size and time."""

from __future__ import annotations

import ipaddress
import socket
import time
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlsplit
from urllib.request import (
    HTTPDefaultErrorHandler,
    HTTPErrorProcessor,
    HTTPHandler,
    HTTPRedirectHandler,
    HTTPSHandler,
    OpenerDirector,
    ProxyHandler,
    Request,
    UnknownHandler,
)

from flowcut.errors import InvalidPicture

MAX_FETCHED = 2**28
"""Bytes of one address: 256 MiB."""
MAX_SECONDS = 60.0
"""Spent on one address, by the clock."""
ANSWER_SECONDS = 15.0
"""Waited for the next bytes."""
PIECE = 2**16
WRITTEN_AS_IT_IS = "%/:=&?~#+!$,;'@()*[]"
"""Signs of an address; others, such as spaces and letters with accents, are spelt out."""


def fetched(address: str, name: str) -> bytes:
    """What lies behind an http or https address; redirections are followed to public hosts, and to the one given.

    Args:
        address: as it was given.
        name: what it is called in a sentence.

    Raises:
        InvalidPicture: (a ValueError) it cannot be reached, takes too long, or is too large.
    """
    end = time.monotonic() + MAX_SECONDS
    address = quote(address, safe=WRITTEN_AS_IT_IS)
    try:
        with _opener(address).open(
            Request(address, headers={"User-Agent": "flowcut"}), timeout=ANSWER_SECONDS
        ) as reply:
            return _read(reply, name, end)
    except HTTPError as error:
        with error:
            why = f"its server answered {error.code} {error.reason}".strip()
    except URLError as error:
        why = str(getattr(error.reason, "strerror", None) or error.reason)
    except TimeoutError:
        why = f"its server was silent for {ANSWER_SECONDS:g} seconds"
    except (OSError, HTTPException, ValueError, UnicodeError) as error:
        if isinstance(error, InvalidPicture):
            raise
        why = str(error) or type(error).__name__
    said = " ".join(why.split()).replace(". ", "; ")[:100]
    raise InvalidPicture(f"{name} cannot be fetched ({said}): look at the address, or give the path of a file.")


def _read(reply: Any, name: str, end: float) -> bytes:
    """The body, piece by piece, within the limits."""
    body = bytearray()
    while piece := reply.read1(PIECE):
        body += piece
        if len(body) > MAX_FETCHED:
            raise InvalidPicture(
                f"{name} has more than {MAX_FETCHED / 2**20:.3g} MiB, which is the most that is fetched: fetch it "
                "yourself, and give the path of the file."
            )
        if time.monotonic() > end:
            raise InvalidPicture(
                f"{name} takes more than {MAX_SECONDS:g} seconds to fetch: fetch it yourself, and give the path of the "
                "file."
            )
    if reply.length:  # what its head said is still to come
        raise HTTPException("the connection ended before all was sent")
    return bytes(body)


def _opener(address: str) -> OpenerDirector:
    """Speaks http and https alone: urllib's own would also read files, and talk to ftp servers."""
    opener = OpenerDirector()
    for handler in (
        ProxyHandler(),
        HTTPHandler(),
        HTTPSHandler(),
        HTTPDefaultErrorHandler(),
        HTTPErrorProcessor(),
        UnknownHandler(),
        _Redirections(urlsplit(address).hostname),
    ):
        opener.add_handler(handler)
    return opener


class _Redirections(HTTPRedirectHandler):
    """A stranger's server may not send this machine to its own services, or to those of its network."""

    max_redirections = 5

    def __init__(self, given: str | None) -> None:
        self._given = given

    def redirect_request(self, req: Request, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Request | None:
        parts = urlsplit(newurl)
        if parts.scheme not in ("http", "https"):
            raise URLError(f"it is redirected to a {parts.scheme} address")
        if parts.hostname != self._given and not _is_public(parts.hostname or ""):
            raise URLError("it is redirected to an address that is not public")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _is_public(host: str) -> bool:
    """Whether every address of a host is one of the public network."""
    found = {entry[4][0] for entry in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)}
    return bool(found) and all(ipaddress.ip_address(str(one).partition("%")[0]).is_global for one in found)
