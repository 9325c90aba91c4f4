"""torchvision beside a torch that it was not built for: usable once flowcut is imported, left alone where it fits."""

from __future__ import annotations

import subprocess
import sys

import pytest

from flowcut.models import torchvision_ops

FIRST = "import flowcut, sys; assert 'torch' not in sys.modules; "


@pytest.mark.parametrize(
    "program",
    [
        "import torchvision; from transformers import Qwen2VLVideoProcessor; print(Qwen2VLVideoProcessor())",
        "import flowcut.models.loading, transformers; print(transformers.VideoLlavaVideoProcessor())",
    ],
)
def test_after_flowcut_torchvision_can_be_imported(program: str) -> None:
    done = subprocess.run([sys.executable, "-c", FIRST + program], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert done.stdout


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
