"""The app as a process of its own: started like people start it, and looked at from outside."""

from __future__ import annotations

import os
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

START_SECONDS = 60


@dataclass(frozen=True)
class Served:
    """An app that answers."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def listens_on(self) -> set[str]:
        """The addresses on which its port is open, as the kernel writes them."""
        found = set()
        for table in ("/proc/net/tcp", "/proc/net/tcp6"):
            for line in Path(table).read_text().splitlines()[1:]:
                _, local, _, state, *_ = line.split()
                address, port = local.split(":")
                if state == LISTENING and int(port, 16) == self.port:
                    found.add(address)
        return found

    def resident_bytes(self) -> int:
        """Memory that it holds now."""
        line = next(row for row in _status(self.process.pid) if row.startswith("VmRSS"))
        return int(line.split()[1]) * 1024

    def busy_seconds(self) -> float:
        """Processor time that it has used so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


LISTENING = "0A"
LOCAL = "0100007F"
"""127.0.0.1, as the kernel writes it."""


def _status(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/status").read_text().splitlines()


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port


@contextmanager
def serving(command: Sequence[str], folder: Path, log: Path, port: int, **environment: str | None) -> Iterator[Served]:
    """An app started in a folder, until the `with` is left; its log must then hold no traceback.

    Args:
        environment: variables of its own, on top of this process's and one thread; None: not set.
    """
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **environment}
    with log.open("w") as output:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env={name: value for name, value in variables.items() if value is not None},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        served = Served(f"http://127.0.0.1:{port}", process, log)
        try:
            _wait_until_healthy(served)
            yield served
        finally:
            process.terminate()
            process.wait(120)  # one that spins beside busy processes takes its time
    assert "Traceback" not in log.read_text(), log.read_text()


def _wait_until_healthy(served: Served) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and served.process.poll() is None:
        try:
            with urllib.request.urlopen(f"{served.url}/_stcore/health", timeout=2) as answer:
                if answer.status == 200:
                    return
        except OSError:
            time.sleep(0.2)
    raise RuntimeError(f"The app did not start: {served.log.read_text()}")
