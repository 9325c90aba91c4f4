"""How a process shares the machine: its quota is found, its threads sleep, and what the user said stays."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from flowcut.threads import allowed_processors, cpu_quota, share_processors


def written(folder: Path, **files: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_text(content)
    return folder


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({"cpu__max": "150000 100000\n"}, 1.5),
        ({"cpu__max": "max 100000\n"}, None),
        ({"cpu__max": ""}, None),
        ({"cpu__max": "nonsense\n"}, None),
        ({"cpu__max": "50000 0\n"}, None),
        ({}, None),
    ],
)
def test_the_quota_of_version_2(tmp_path: Path, files: dict[str, str], quota: float | None) -> None:
    assert cpu_quota(written(tmp_path / "cgroup", **files), tmp_path / "none") == quota


def test_the_quota_of_version_1(tmp_path: Path) -> None:
    folder = tmp_path / "cgroup" / "cpu" / "docker" / "a1"
    written(folder, cpu__cfs_quota_us="200000\n", cpu__cfs_period_us="100000\n")
    own = written(tmp_path, own="4:memory:/docker/a1\n3:cpu,cpuacct:/docker/a1\n") / "own"
    assert cpu_quota(tmp_path / "cgroup", own) == 2
    written(folder, cpu__cfs_quota_us="-1\n")
    assert cpu_quota(tmp_path / "cgroup", own) is None


def test_the_smallest_quota_on_the_way_down_counts(tmp_path: Path) -> None:
    root = tmp_path / "cgroup"
    written(root / "slice", cpu__max="100000 100000\n")
    written(root / "slice" / "service", cpu__max="400000 100000\n")
    assert cpu_quota(root, written(tmp_path, own="0::/slice/service\n") / "own") == 1


@pytest.mark.parametrize(("quota", "allowed"), [(None, 4), (0.3, 1), (1.5, 1), (3.0, 3), (64.0, 4)])
def test_no_more_threads_than_the_process_may_run(
    monkeypatch: pytest.MonkeyPatch, quota: float | None, allowed: int
) -> None:
    monkeypatch.setattr("flowcut.threads.cpu_quota", lambda: quota)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3}, raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    assert allowed_processors() == allowed
    environment: dict[str, str] = {}
    share_processors(environment)
    assert environment == {"OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": str(allowed)}


def test_a_process_with_all_processors_is_not_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flowcut.threads.allowed_processors", lambda: os.cpu_count() or 1)
    environment: dict[str, str] = {}
    share_processors(environment)
    assert environment == {"OMP_WAIT_POLICY": "PASSIVE"}


@pytest.mark.parametrize("said", [{"OMP_WAIT_POLICY": "ACTIVE"}, {"GOMP_SPINCOUNT": "1"}, {"KMP_BLOCKTIME": "200"}])
def test_how_threads_wait_is_left_to_a_user_who_said_so(said: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flowcut.threads.allowed_processors", lambda: os.cpu_count() or 1)
    environment = dict(said)
    share_processors(environment)
    assert environment == said


@pytest.mark.parametrize("name", ["OMP_NUM_THREADS", "MKL_NUM_THREADS"])
def test_how_many_threads_is_left_to_a_user_who_said_so(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flowcut.threads.allowed_processors", lambda: 0)
    environment = {name: "7", "OMP_WAIT_POLICY": "PASSIVE"}
    share_processors(environment)
    assert environment == {name: "7", "OMP_WAIT_POLICY": "PASSIVE"}


BY_COMMAND = "from flowcut_lens.cli.main import main; main(['ask', 'nowhere.png', 'What?'])"
BY_PAGE = """
import contextlib
with contextlib.suppress(Exception):  # without a visitor the page stops further on
    import flowcut_lens.app.main
"""


@pytest.mark.parametrize("program", [BY_COMMAND, BY_PAGE], ids=["command", "page"])
def test_openmp_hears_it_from_the_command_line_and_from_the_page(program: str) -> None:
    """With OMP_DISPLAY_ENV set, OpenMP says what it read when torch loads it."""
    left_out = ("OMP_WAIT_POLICY", "OMP_NUM_THREADS", "GOMP_SPINCOUNT")
    environment = {name: value for name, value in os.environ.items() if name not in left_out}
    done = subprocess.run(
        [sys.executable, "-c", f"{program}\nimport torch"], env={**environment, "OMP_DISPLAY_ENV": "VERBOSE"},
        capture_output=True,
        text=True, timeout=240,
    )  # fmt: skip
    assert "GOMP_SPINCOUNT = '0'" in done.stderr, done.stderr[-2000:]
