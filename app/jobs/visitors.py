"""When a visitor has left for good: what was theirs is given back, and what only they waited for stops.

A browser that loses its connection for a moment comes back to its session; one that was closed does not. Streamlit
keeps the sessions of both for minutes, with every picture in them, and never closes them by itself.
"""

from __future__ import annotations

import asyncio
import gc
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import streamlit as st
from streamlit import runtime as server
from streamlit.runtime.scriptrunner import get_script_run_ctx

from flowcut_lens.app.jobs.heap import return_freed
from flowcut_lens.app.media.uploads import forget_pixels

GRACE = 20.0
"""Seconds that a visitor may be away, after which the session is closed."""

_tidying = ThreadPoolExecutor(1, thread_name_prefix="tidying")
_waiting = threading.Lock()


@dataclass(eq=False)
class Visitor:
    """One browser tab, from its first run of the page until it has left for good."""

    session: str
    """Streamlit's name of its session."""
    gone: threading.Event = field(default_factory=threading.Event)
    """Set when it has left for good."""
    _departures: int = 0

    def leave(self) -> None:
        """The connection was lost: the visitor is gone unless it is back in time."""
        self._departures += 1
        try:
            asyncio.get_running_loop().call_later(GRACE, self._end_unless_back, self._departures)
        except RuntimeError:  # not called by the server's own loop, but by a session that is ended already
            if not self._is_connected():
                self.gone.set()

    def _end_unless_back(self, departure: int) -> None:
        if self._is_connected() or departure != self._departures:  # who was back and left again has its own time
            return
        self.gone.set()
        if server.exists():
            server.get_instance().close_session(self.session)
        forget_pixels()
        tidy()

    def _is_connected(self) -> bool:
        return server.exists() and server.get_instance().is_active_session(self.session)


def visitor() -> Visitor:
    """The visitor whose page is being run."""
    found: Visitor = st.session_state.setdefault("visitor", Visitor(_session()))
    _tie(found)
    return found


@st.cache_resource(scope="session", show_spinner=False, on_release=Visitor.leave)
def _tie(_found: Visitor) -> Visitor:
    """Streamlit lets go of what is cached for a session when its connection is lost, and says so."""
    return _found


def give_back(file: Any) -> None:
    """Let Streamlit forget a file that was uploaded and read: otherwise it keeps it as long as the session."""
    if server.exists():
        files: Any = server.get_instance().uploaded_file_mgr
        files.remove_file(session_id=_session(), file_id=file.file_id)


def _session() -> str:
    context = get_script_run_ctx()
    return "" if context is None else context.session_id


def tidy() -> None:
    """Give back what nobody needs any more, on a thread of its own; of several calls at once one is enough.

    What Streamlit keeps of a session, and of each run of a page, refers to itself in circles, which only a collection
    ends: called when something large was let go of, a visitor or a picture. It looks at what came into being since the
    models were loaded (see `jobs.runtime`), which takes milliseconds.
    """
    if _waiting.acquire(blocking=False):
        _tidying.submit(_tidy)


def _tidy() -> None:
    _waiting.release()
    gc.collect()
    return_freed()
