"""torchvision beside a torch that it was not built for: mended once, usable whatever comes first."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy
import pytest

import flowcut
from flowcut.media import torchvision_ops

VIDEO = "print(Qwen2VLVideoProcessor())"


@pytest.mark.parametrize(
    "program",
    [
        f"from transformers import AutoProcessor, CLIPVisionModel, Qwen2VLVideoProcessor; import flowcut; {VIDEO}",
        f"import flowcut; from transformers import AutoProcessor, CLIPVisionModel, Qwen2VLVideoProcessor; {VIDEO}",
        f"import torchvision; from transformers import Qwen2VLVideoProcessor; {VIDEO}",
    ],
)
def test_in_an_environment_that_was_set_up_the_order_of_imports_is_free(program: str) -> None:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_where_nothing_was_set_up_loading_models_makes_torchvision_usable() -> None:
    site = Path(flowcut.__file__).parents[1], Path(numpy.__file__).parents[1]
    program = f"import sys; sys.path[:0] = {[str(path) for path in site]}; import flowcut.models.loading; "
    program += f"from transformers import Qwen2VLVideoProcessor; {VIDEO}"
    done = subprocess.run([sys.executable, "-S", "-c", program], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_importing_flowcut_leaves_the_import_machinery_alone() -> None:
    program = (
        "import sys; before = list(sys.meta_path), list(sys.path_hooks), list(sys.path), sys.modules.get('torch'); "
        "import flowcut; "
        "assert before == (list(sys.meta_path), list(sys.path_hooks), list(sys.path), sys.modules.get('torch'))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr


def test_only_an_environment_that_needs_it_is_mended(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / torchvision_ops.START_UP
    monkeypatch.setattr(torchvision_ops, "_loads_its_own", lambda folder: False)
    assert torchvision_ops.mend_environment(tmp_path)
    assert "watch_for_torchvision()" in file.read_text()
    monkeypatch.setattr(torchvision_ops, "_loads_its_own", lambda folder: True)
    assert not torchvision_ops.mend_environment(tmp_path)
    assert not file.exists()


def test_operators_that_are_there_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torchvision_ops, "_declared", [])
    monkeypatch.setattr(torchvision_ops, "_loads_its_own", lambda folder: True)
    assert not torchvision_ops.declare_missing_operators()
    assert torchvision_ops._declared == []


def test_without_torchvision_nothing_is_declared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torchvision_ops, "_declared", [])
    monkeypatch.setattr(torchvision_ops, "find_spec", lambda name: None)
    assert not torchvision_ops.declare_missing_operators()


def test_one_finder_watches_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    monkeypatch.delitem(sys.modules, "torchvision", raising=False)
    for _ in range(2):
        torchvision_ops.watch_for_torchvision()
    assert sum(isinstance(finder, torchvision_ops._BeforeTorchvision) for finder in sys.meta_path) == 1


DOORS = ("ask", "refusals", "record", "record_language", "compare_methods", "AnswerScorer", "AnswerRecording", "prune")


@pytest.mark.parametrize("name", DOORS)
def test_whatever_is_used_first_torchvision_is_usable(name: str) -> None:
    """Where nothing was set up, and before a model was loaded."""
    site = Path(flowcut.__file__).parents[1], Path(numpy.__file__).parents[1]
    program = f"import sys; sys.path[:0] = {[str(path) for path in site]}; import flowcut; flowcut.{name}; "
    program += "from transformers import CLIPVisionModel, LlavaForConditionalGeneration"
    done = subprocess.run([sys.executable, "-S", "-c", program], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
