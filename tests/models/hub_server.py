"""A hub on this machine: what the Hugging Face hub's client asks of it, with weights that come as slowly as wanted."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

COMMIT = "c" * 40
PIECE = 4096


@dataclass
class Repository:
    """One model as the hub has it, and how it is handed out."""

    folder: Path
    gated: bool = False
    seconds_a_piece: float = 0.0
    """Between two pieces of 4 kB of the weights."""
    cut_after: int | None = None
    """Bytes of one answer after which the connection is broken."""
    refused: int | None = None
    """A status with which weights are answered."""
    knows_ranges: bool = True
    damaged: bool = False
    asked: list[str] = field(default_factory=list)
    """The Range of each request for weights."""
    sent: int = 0
    """Bytes of weights that went out."""

    def is_large(self, name: str) -> bool:
        return name.endswith(".safetensors")

    def tree(self) -> list[dict[str, Any]]:
        return [self._entry(file) for file in sorted(self.folder.iterdir())]

    def _entry(self, file: Path) -> dict[str, Any]:
        content = file.read_bytes()
        entry: dict[str, Any] = {
            "type": "file", "path": file.name, "size": len(content), "oid": hashlib.sha1(content).hexdigest(),
        }  # fmt: skip
        if self.is_large(file.name):
            sha256 = hashlib.sha256(content).hexdigest()
            entry["lfs"] = {"oid": sha256, "sha256": sha256, "size": len(content), "pointerSize": 130}
        return entry


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """Whoever asked has hung up: that is what is tested."""


class Hub:
    """The server and its repositories by name; each may be changed while it serves."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        hub = self

        class Handler(_Handler):
            repositories = hub.repositories

        self._server = _Server(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def ask_instead(hub: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the client of this process ask this hub, and keep what it fetches in a cache of its own."""
    for name, value in {
        "HF_HUB_OFFLINE": False,
        "ENDPOINT": hub.address,
        "HUGGINGFACE_CO_URL_TEMPLATE": hub.address + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_CACHE": str(cache),
    }.items():
        monkeypatch.setattr(huggingface_hub.constants, name, value)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    repositories: dict[str, Repository]

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        parts = self.path.split("?")[0].strip("/").split("/")
        api = parts[:2] == ["api", "models"]
        name, rest = ("/".join(parts[2:4]), parts[4:]) if api else ("/".join(parts[:2]), parts[2:])
        found = self.repositories.get(name)
        if found is None:
            self._send(404, b"", {"X-Error-Code": "RepoNotFound"})
        elif api and rest[:1] == ["tree"]:
            self._send(200, json.dumps(found.tree()).encode())
        elif api:
            self._send(200, self._info(name, found))
        elif found.gated:
            self._send(403, b"", {"X-Error-Code": "GatedRepo"})
        else:
            self._file(found, rest[-1], body)

    def _info(self, name: str, found: Repository) -> bytes:
        siblings = [
            {"rfilename": one["path"], "size": one["size"], "blobId": one["oid"], "lfs": one.get("lfs")}
            for one in found.tree()
        ]
        return json.dumps({"id": name, "modelId": name, "sha": COMMIT, "siblings": siblings}).encode()

    def _send(self, status: int, content: bytes, more: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(content)), **(more or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def _file(self, found: Repository, name: str, body: bool) -> None:
        file = found.folder / name
        if not file.is_file():
            return self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
        content, large = file.read_bytes(), found.is_large(name)
        facts = {"X-Repo-Commit": COMMIT, "ETag": f'"{self._etag(content, large)}"', "Accept-Ranges": "bytes"}
        if not large or not body:
            return self._send(200, content, facts)
        found.asked.append(self.headers.get("Range", ""))
        if found.refused is not None:
            return self._send(found.refused, b"")
        return self._weights(found, content, facts)

    def _etag(self, content: bytes, large: bool) -> str:
        return (hashlib.sha256 if large else hashlib.sha1)(content).hexdigest()

    def _weights(self, found: Repository, content: bytes, facts: dict[str, str]) -> None:
        first = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").split("-")[0])
        first = first if found.knows_ranges else 0
        rest = bytes(len(content) - first) if found.damaged else content[first:]
        self.send_response(206 if "Range" in self.headers and found.knows_ranges else 200)
        span = f"bytes {first}-{len(content) - 1}/{len(content)}"
        for key, value in {**facts, "Content-Length": str(len(rest)), "Content-Range": span}.items():
            self.send_header(key, value)
        self.end_headers()
        for start in range(0, len(rest), PIECE):
            if found.cut_after is not None and start >= found.cut_after:
                self.close_connection = True
                self.connection.close()
                return
            try:
                self.wfile.write(rest[start : start + PIECE])
                self.wfile.flush()
            except OSError:  # whoever asked has hung up
                return
            found.sent += len(rest[start : start + PIECE])
            if found.seconds_a_piece:
                time.sleep(found.seconds_a_piece)
