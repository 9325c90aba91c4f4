"""One file of a download: on a thread of its own, resumed where it stopped, checked when it is whole."""

from __future__ import annotations

import errno
import hashlib
import socket
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from huggingface_hub import constants
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

ANSWER_SECONDS = constants.HF_HUB_DOWNLOAD_TIMEOUT
"""How long a server may take to answer, and between two pieces of what it sends."""
PATIENCE = 30.0
"""Seconds without a byte after which the connection counts as lost."""
PAUSE = 1.0
"""Seconds before another try."""
PIECE = 2**20
"""Bytes that are read at once of what is here already."""
STOP_SECONDS = 2.0
"""How long a stop waits for the thread, which ends at its next step."""
_FULL = (errno.ENOSPC, errno.EDQUOT)


class LostConnection(Exception):
    """No byte came for PATIENCE seconds."""

    def __init__(self, done: int, total: int) -> None:
        super().__init__(done, total)
        self.done, self.total = done, total


class CannotWrite(Exception):
    """The file cannot be written: the disk is full, or gone."""

    def __init__(self, error: OSError) -> None:
        super().__init__(error.strerror)
        self.full = error.errno in _FULL


class WrongContent(Exception):
    """The file is not the one that the hub describes."""


class Transfer(threading.Thread):
    """Fetches one file into `part`, which keeps what came when it is stopped; ends with `error` None and all of it."""

    def __init__(self, url: str, part: Path, size: int, sha256: str) -> None:
        super().__init__(name="transfer", daemon=True)
        self.done = part.stat().st_size if part.exists() else 0
        """Bytes that are here."""
        self.error: Exception | None = None
        """Why it ended early; None also when it was stopped."""
        self.ended = threading.Event()
        self._url, self._part, self._size, self._sha256 = url, part, size, sha256
        self._stopped = threading.Event()
        self._digest = hashlib.sha256()
        self._response: Any = None

    def run(self) -> None:
        """Until the file is whole, the connection is lost for good, or it is stopped."""
        try:
            with self._part.open("ab") as file:
                self._run(file)
            self._check()
        except HfHubHTTPError as error:  # an OSError, too
            self.error = error
        except OSError as error:
            self.error = CannotWrite(error)
        except Exception as error:
            self.error = error
        finally:
            self.ended.set()

    def stop(self) -> None:
        """End it now, even where it waits for the server: its socket is shut."""
        self._stopped.set()
        response = self._response
        if response is not None and "network_stream" in response.extensions:
            connection = response.extensions["network_stream"].get_extra_info("socket")
            with suppress(OSError, AttributeError):  # it is closed already
                connection.shutdown(socket.SHUT_RDWR)
        self.join(STOP_SECONDS)

    def _run(self, file: BinaryIO) -> None:
        self._take_in_what_is_here()
        heard = time.monotonic()
        while self.done < self._size and not self._stopped.is_set():
            before = self.done
            problem = self._receive(file)
            if self.done > before:
                heard = time.monotonic()
            elif time.monotonic() - heard > PATIENCE:
                raise LostConnection(self.done, self._size) from problem
            if problem is not None:
                self._stopped.wait(PAUSE)

    def _check(self) -> None:
        """Whether what came is what the hub describes; anything else is removed."""
        if self._stopped.is_set():
            return
        if (self.done, self._digest.hexdigest()) != (self._size, self._sha256):
            self._part.unlink()
            raise WrongContent

    def _take_in_what_is_here(self) -> None:
        with self._part.open("rb") as file:
            while (piece := file.read(PIECE)) and not self._stopped.is_set():
                self._digest.update(piece)

    def _receive(self, file: BinaryIO) -> Exception | None:
        """Take what one connection gives, from where the file ends; the fault that ended it, if trying again may help.

        Raises:
            HfHubHTTPError: the server refuses.
            CannotWrite: the disk is full, or gone.
        """
        try:
            with get_session().stream("GET", self._url, headers=self._headers(), timeout=ANSWER_SECONDS) as response:
                self._response = response
                if response.status_code >= 500:
                    return OSError(f"status {response.status_code}")
                hf_raise_for_status(response)
                if response.status_code != 206:
                    self._begin_anew(file)  # a server that knows no ranges sends the whole file
                for piece in response.iter_bytes():  # as they come, however slowly
                    self._keep(piece, file)
                    if self._stopped.is_set():
                        break
        except (HfHubHTTPError, CannotWrite):
            raise
        except Exception as error:  # of the kinds of httpx or httpx2, by the version of the hub's client
            return error
        finally:
            self._response = None
        return None

    def _keep(self, piece: bytes, file: BinaryIO) -> None:
        try:
            file.write(piece)
            file.flush()
        except OSError as error:
            raise CannotWrite(error) from error
        self._digest.update(piece)
        self.done += len(piece)

    def _begin_anew(self, file: BinaryIO) -> None:
        file.truncate(0)
        self._digest, self.done = hashlib.sha256(), 0

    def _headers(self) -> dict[str, str]:
        headers: dict[str, str] = build_hf_headers()
        return {**headers, "Accept-Encoding": "identity", "Range": f"bytes={self.done}-"}
