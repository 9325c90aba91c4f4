"""What is said on stdout: in any coding, and never lost where it cannot be written."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from flowcut.errors import FlowCutError
from flowcut_lens.cli import main, output
from tests import tiny

WORDS = "café 这是什么 😀"


class Stdout:
    """A stdout of a coding, such as that of a redirection on Windows."""

    def __init__(self, coding: str) -> None:
        self.held = io.BytesIO()
        self.stream = io.TextIOWrapper(self.held, encoding=coding, newline="\n")

    def written(self) -> str:
        return self.held.getvalue().decode(self.stream.encoding)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny.checkpoint(tmp_path_factory.mktemp("model")))


@pytest.fixture
def picture(tmp_path: Path) -> str:
    tiny.picture().save(tmp_path / "cat.png")
    return str(tmp_path / "cat.png")


@pytest.mark.parametrize("coding", ["utf-8", "cp1252", "ascii", "latin-1", "utf-16"])
def test_every_coding_says_all(coding: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    stdout = Stdout(coding)
    monkeypatch.setattr(sys, "stdout", stdout.stream)
    output.say(WORDS)
    output.say_json({"answer": WORDS})
    said, facts = stdout.written().split("\n", 1)
    assert json.loads(facts) == {"answer": WORDS}
    assert (said == WORDS) == coding.startswith("utf")
    assert "\\u8fd9" in said or said == WORDS
    assert ("set PYTHONIOENCODING=utf-8" in capsys.readouterr().err) == (said != WORDS)


def test_half_a_sign_is_no_reason_to_lose_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    stdout = Stdout("utf-8")
    monkeypatch.setattr(sys, "stdout", stdout.stream)
    output.say("a\udce9b")
    output.say_json({"answer": "a\udce9b"})
    said, facts = stdout.written().split("\n", 1)
    assert said == "a\\udce9b"
    assert json.loads(facts) == {"answer": "a\udce9b"}


class Full(io.StringIO):
    def write(self, text: str) -> int:
        raise OSError(28, "No space left on device")


@pytest.mark.parametrize("stream", [Full(), None])
def test_where_stdout_cannot_be_written_stderr_has_it(
    stream: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(sys, "stdout", stream)
    with pytest.raises(FlowCutError, match=r"stdout cannot be written .*stands above, on stderr"):
        output.say("the answer")
    assert capsys.readouterr().err == "the answer\n"


@pytest.mark.parametrize("options", [[], ["--json"]])
@pytest.mark.parametrize("coding", ["cp1252", "ascii"])
def test_a_run_is_not_lost_at_a_stdout_of_another_coding(
    options: list[str], coding: str, model: str, picture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stdout = Stdout(coding)
    monkeypatch.setattr(sys, "stdout", stdout.stream)
    asked = ["ask", picture, "这是什么？", "--model", model, "--tokens", "9", "--max-new-tokens", "3"]
    assert main.main([*asked, "--quiet", *options]) == 0
    assert stdout.written()
    if options:
        assert json.loads(stdout.written())["question"] == "这是什么？"


def program(*arguments: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "flowcut_lens.cli.main", *arguments], stderr=subprocess.PIPE, timeout=200, **options
    )


def test_programs_with_strange_stdouts() -> None:
    ascii_only = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    done = program("methods", "--json", stdout=subprocess.PIPE, env=ascii_only)
    assert done.returncode == 0
    assert json.loads(done.stdout)
    with Path("/dev/full").open("wb") as full:
        done = program("methods", stdout=full)
    assert done.returncode == 2
    assert b"No space left on device" in done.stderr
    assert b"flowcut" in done.stderr.splitlines()[1], "the table stands on stderr"
    assert b"Traceback" not in done.stderr
    reader, writer = os.pipe()
    os.close(reader)
    done = program("methods", stdout=writer)
    os.close(writer)
    assert (done.returncode, done.stderr) == (main.READER_GONE, b"")


def test_without_stderr_the_answer_stays_alone(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    assert main.main(["methods"]) == 0
    with pytest.raises(SystemExit):
        main.main(["no such command"])
    assert "no such command" not in capsys.readouterr().out


def test_what_cannot_be_kept_is_still_said(
    model: str, picture: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """The folder is there and may be written, and something in it has the name of a file that is to be."""
    (tmp_path / "out" / "run.json").mkdir(parents=True)
    asked = ["ask", picture, "What?", "--model", model, "--tokens", "9", "--max-new-tokens", "3", "--quiet"]
    assert main.main([*asked, "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr()
    assert said.out.strip()
    assert "cannot be written to" in said.err


def test_where_nothing_can_be_kept_is_said_before_the_work(picture: str, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "file").touch()
    for out in (tmp_path / "file", tmp_path / "file" / "inside"):
        assert main.main(["ask", picture, "What?", "--model", "/never/reached", "--out", str(out)]) == 2
        assert "is a file: give a folder" in capsys.readouterr().err
    asked = ["causal", picture, "What?", "--model", "/never/reached", "--out"]
    assert main.main([*asked, str(tmp_path / "file" / "inside")]) == 2
    assert "is a file: give a folder" in capsys.readouterr().err
    assert main.main([*asked, str(tmp_path)]) == 2
    assert "is a folder: give a file" in capsys.readouterr().err
