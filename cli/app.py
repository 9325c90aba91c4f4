"""`flowcut app`: serve the page."""

from __future__ import annotations

import argparse
import json
import runpy
import socket
import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from flowcut.errors import FlowCutError

LAST_PORT = 65535


def add_command(commands: Any) -> None:
    """Add the command to the command line's parser."""
    app = commands.add_parser("app", help="serve the app and print its address, to be opened in a browser")
    app.set_defaults(run=_app)
    app.add_argument("--port", type=int, default=8501, help="where it is served (default 8501)")
    app.add_argument("--host", default="127.0.0.1", help="the address that it listens on (default: this machine only)")


def _app(wanted: argparse.Namespace) -> int:
    page = Path(__file__).resolve().parents[1] / "app" / "main.py"  # by place: a name could be somebody else's
    if not page.is_file() or find_spec("streamlit") is None:
        raise FlowCutError("The app is not installed here: run pip install 'flowcut-lens[app]', or make demo.")
    _check_address(wanted.host, wanted.port)
    settings = {**_settings(page), "server.address": wanted.host, "server.port": str(wanted.port)}
    sys.argv = ["streamlit", "run", str(page), *(f"--{name}={value}" for name, value in settings.items())]
    # In this process: a signal to it ends the server. Streamlit's own command, after what begins with the server.
    runpy.run_module("flowcut_lens.app", run_name="__main__", alter_sys=True)
    return 0


def _check_address(host: str, port: int) -> None:
    """Streamlit ends in a traceback where it cannot listen."""
    if not 1 <= port <= LAST_PORT:
        raise FlowCutError(f"--port is {port}: choose 1 to {LAST_PORT}.")
    try:
        socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET).close()
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or error
        sentence = f"The app cannot listen on {host}, port {port} ({why}): choose another --host or --port."
        raise FlowCutError(sentence) from error


def _settings(page: Path) -> dict[str, str]:
    """The settings beside the page, as Streamlit's command line takes them; the theme is no setting of the server."""
    tables = tomllib.loads((page.parent / ".streamlit" / "config.toml").read_text(encoding="utf-8"))
    return {
        f"{table}.{name}": value if isinstance(value, str) else json.dumps(value)
        for table, settings in tables.items()
        if table != "theme"
        for name, value in settings.items()
    }
