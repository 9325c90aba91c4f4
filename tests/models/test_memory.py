"""The peak of resident memory: it sees what came and went, and forgets it when told to."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from flowcut.models import memory

MIB = 2**20


PEAKS = """
import numpy as np
from flowcut.models import memory
assert memory.reset_peak()
before = memory.resident_peak()
np.ones({size}, dtype=np.uint8).sum()
after = memory.resident_peak()
assert memory.reset_peak()
print(before, after, memory.resident_peak())
"""


@pytest.mark.parametrize("size", [64 * MIB, 128 * MIB])
def test_the_peak_sees_what_is_gone_again(size: int) -> None:
    """In a process of its own: in this one threads of other tests may give memory back meanwhile."""
    if sys.platform != "linux":
        assert not memory.reset_peak()
        return
    said = subprocess.check_output([sys.executable, "-c", PEAKS.format(size=size)], text=True)
    before, after, forgotten = map(int, said.split())
    assert after - before > 0.9 * size
    assert after - forgotten > 0.9 * size


def test_a_system_that_does_not_count(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(memory, "_RESET", tmp_path / "nowhere" / "clear_refs")
    monkeypatch.setattr(memory, "_STATUS", tmp_path / "status")
    monkeypatch.setattr(memory, "_FREE", tmp_path / "meminfo")
    assert not memory.reset_peak()
    assert memory.resident_peak() is None
    assert memory.free() is None


def test_what_is_free_is_less_than_what_there_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text("MemTotal:  2000 kB\nMemAvailable:   1000 kB\n")
    monkeypatch.setattr(memory, "_FREE", tmp_path / "meminfo")
    assert memory.free() == 1_024_000
