"""`python -m flowcut_lens.app run main.py`: Streamlit's command, and the embedded model loaded as soon as it serves.

Streamlit by itself runs nothing of ours before somebody opens the page. `flowcut app` starts this.
"""

from __future__ import annotations

import runpy
import socket
import threading
import time

from streamlit import config
from streamlit import runtime as streamlit_runtime

PAUSE = 0.05
"""Seconds between two looks whether the server answers."""


def main() -> None:
    """Serve until a signal comes."""
    threading.Thread(target=_load_when_served, name="ahead", daemon=True).start()
    runpy.run_module("streamlit", run_name="__main__", alter_sys=True)


def _load_when_served() -> None:
    """Load the embedded model ahead of the first page, but not ahead of the server's first answer."""
    while not _answers():
        time.sleep(PAUSE)
    from flowcut_lens.app.jobs.runtime import runtime

    runtime().warm_up()


def _answers() -> bool:
    """Whether somebody could open the page now."""
    if not streamlit_runtime.exists():
        return False
    try:
        address = config.get_option("server.address"), config.get_option("server.port")
        socket.create_connection(address, timeout=1).close()
    except OSError:
        return False
    return True


if __name__ == "__main__":
    main()
