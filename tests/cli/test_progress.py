"""Progress on stderr: a moving bar in a terminal, plain lines elsewhere, and stdout for the answer alone."""

from __future__ import annotations

import contextlib
import io
import os
import pty
import subprocess
import sys
import termios
import threading
import time
from pathlib import Path

import pytest

import flowcut
from flowcut_lens.cli import main, progress
from flowcut_lens.cli.progress import Progress
from tests import tiny


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny.checkpoint(tmp_path_factory.mktemp("model")))


@pytest.fixture
def options(model: str, tmp_path: Path) -> list[str]:
    tiny.picture().save(tmp_path / "cat.png")
    return [str(tmp_path / "cat.png"), "What?", "--model", model, "--tokens", "9", "--max-new-tokens", "3"]


class Terminal:
    """A pseudo-terminal of 80 columns and what was written to it."""

    def __init__(self) -> None:
        self._ours, self.end = pty.openpty()
        termios.tcsetwinsize(self.end, (24, 80))
        self._seen: list[bytes] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        with contextlib.suppress(OSError):  # Linux: the other end was closed
            while chunk := os.read(self._ours, 4096):
                self._seen.append(chunk)

    def close(self) -> str:
        """All that was written, after the end has been closed."""
        os.close(self.end)
        self._reader.join()
        os.close(self._ours)
        return b"".join(self._seen).decode()


def in_a_terminal(monkeypatch: pytest.MonkeyPatch, *command: str) -> str:
    """What a command writes to a terminal on stderr."""
    terminal = Terminal()
    with os.fdopen(terminal.end, "w", closefd=False) as stderr, monkeypatch.context() as patched:
        patched.setattr(sys, "stderr", stderr)
        assert main.main(command) == 0
    return terminal.close()


def test_a_terminal_shows_a_moving_bar_that_is_gone_at_the_end(options: list[str], model: str) -> None:
    terminal = Terminal()
    program = [sys.executable, "-m", "flowcut_lens.cli.main", "ask", *options]
    done = subprocess.run(program, stdout=subprocess.PIPE, stderr=terminal.end, text=True, timeout=200)
    seen = terminal.close()
    run = flowcut.ask(flowcut.load(model), options[0], "What?", flowcut.FlowCut(tokens=9), max_new_tokens=3)
    assert (done.returncode, done.stdout) == (0, run.answer + "\n"), seen
    assert "flowcut: Loading PyTorch [00:0" in seen
    assert seen.count("\r") > 3
    assert "\n" not in seen
    assert seen.rsplit("\r", 2)[-2].strip() == "", "the bar is wiped out before the answer"


STUDIES = [
    (("compare",), "Comparing: "),
    (("causal",), "Reading random sets: reliability "),
    (("causal", "--reading", "blocks"), "Taking blocks away |"),
]


@pytest.mark.parametrize(("command", "work"), STUDIES)
def test_studies_show_what_they_do_and_how_far_they_are(
    options: list[str],
    command: tuple[str, ...],
    work: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    monkeypatch.setattr(progress, "DRAWN_EVERY", 0.005)
    seen = in_a_terminal(monkeypatch, *command, *options)
    assert work in seen
    assert "%" in seen.split(work, 1)[1]
    assert capsys.readouterr().out


def test_quiet_writes_nothing(
    options: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(progress, "DRAWN_EVERY", 0.005)
    for command in ("ask", "compare", "causal"):
        assert in_a_terminal(monkeypatch, command, *options, "--quiet") == ""
        assert capsys.readouterr().out


def test_a_pipe_gets_plain_lines(
    options: list[str], model: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(progress, "DRAWN_EVERY", 0.005)
    monkeypatch.setattr(progress, "FIRST_LINE", 0)
    assert main.main(["ask", *options]) == 0
    run = flowcut.ask(flowcut.load(model), options[0], "What?", flowcut.FlowCut(tokens=9), max_new_tokens=3)
    written = capfd.readouterr()
    assert written.out == run.answer + "\n"
    lines = written.err.splitlines()
    assert lines
    assert all(line.startswith("flowcut: ") and line.endswith(" ...") for line in lines)


def test_lines_come_seldom_and_say_the_latest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "DRAWN_EVERY", 0.01)
    monkeypatch.setattr(progress, "FIRST_LINE", 0.1)
    monkeypatch.setattr(progress, "LINES_EVERY", 0.2)
    stream, started = io.StringIO(), time.monotonic()
    with Progress(stream=stream) as shown:
        for count in range(60):
            shown.report(count / 60, f"Downloading {count} of 60 GB")
            time.sleep(0.01)
    lines = stream.getvalue().splitlines()
    most = 1 + int((time.monotonic() - started - 0.1) / 0.2)
    assert 2 <= len(lines) <= most
    assert all(line.startswith("flowcut: Downloading ") for line in lines)
    assert lines[0] != "flowcut: Downloading 0 of 60 GB ...", "the first line waits, and says what is then the latest"


def test_what_is_quick_writes_no_line() -> None:
    stream = io.StringIO()
    with Progress(stream=stream) as shown:
        shown.report(None, "Loading PyTorch")
    assert stream.getvalue() == ""
