"""`flowcut models`, and the word on stderr about pictures that the embedded model can know nothing of."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import pytest

from flowcut.published import published_models
from flowcut_lens.scenes import draw
from tests import tiny
from tests.cli.test_cli import flow

WARNING = "The embedded model knows drawn scenes only"


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))


def test_every_published_model_has_a_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert flow("models") == 0
    said = capsys.readouterr()
    assert said.err == ""
    for model in published_models():
        line = next(line for line in said.out.splitlines() if f"  {model.name}  " in line)
        assert re.search(r"  no(; needs a login)?$", line)
    assert str(tmp_path / "cache") in said.out


def test_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert flow("models", "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["machine"]["free_disk"] > 0
    assert [one["name"] for one in facts["models"]] == [model.name for model in published_models()]
    first = facts["models"][0]
    assert first["memory_needed"] == 2 * first["size"]["parameters"]
    assert first["cached"] == {"complete": False, "bytes": 0}


def test_the_list_needs_no_torch() -> None:
    program = (
        "import shutil, sys\n"
        "from flowcut.models import fit\n"
        "fit._may_have_gpu = lambda: False\n"
        "from flowcut_lens.cli.main import main\n"
        "main(['models', '--json'])\n"
        "print([name for name in ('torch', 'transformers', 'scipy') if name in sys.modules], file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stderr == "[]\n"


@pytest.mark.parametrize(("command", "question"), [("ask", "What?"), ("compare", " ")])
def test_a_photograph_and_the_embedded_model(
    command: str, question: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = tmp_path / "my cat.png"
    tiny.picture(size=(90, 70)).save(picture)
    assert flow(command, str(picture), question, "--max-new-tokens", "2") == (0 if question.strip() else 2)
    warned = [line for line in capsys.readouterr().err.splitlines() if WARNING in line]
    assert len(warned) == 1
    assert f"flowcut {command} '{picture}' '{question}' --model " in warned[0]
    assert "GB to fetch once" in warned[0]


def test_a_drawn_scene_and_another_model_are_not_warned_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    draw(5).image.save(tmp_path / "scene.png")
    assert flow("ask", str(tmp_path / "scene.png"), "What?", "--max-new-tokens", "2") == 0
    tiny.picture().save(tmp_path / "cat.png")
    model = str(tiny.checkpoint(tmp_path / "model"))
    assert flow("ask", str(tmp_path / "cat.png"), "What?", "--model", model, "--tokens", "9") == 0
    assert WARNING not in capsys.readouterr().err
