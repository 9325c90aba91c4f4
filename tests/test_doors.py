"""The doors between the rooms, read from the imports of every file."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = {"flowcut", "analysis", "app", "scenes", "training", "benchmarks"}

MAY_OPEN = {
    "flowcut": set(),
    "analysis": {"flowcut"},
    "scenes": set(),
    "app": {"flowcut", "analysis", "scenes"},
    "training": {"flowcut", "scenes"},
    "benchmarks": {"flowcut", "analysis", "scenes"},
}
RECORDS = {
    "flowcut.record", "flowcut.language_record", "flowcut.answer_attention", "flowcut.results", "flowcut.schedule",
    "flowcut.study_results",
}  # fmt: skip
"""What analysis may know of the library: records and results, never a model."""

HOMES = {
    "streamlit": ("app",),
    "transformers": ("flowcut", "training", "benchmarks"),  # benchmarks measure the stock model beside ours
    "plotly": ("analysis/figures", "app"),
    "matplotlib": ("analysis/figures", "app"),
}
LIGHT = (
    "record", "language_record", "answer_attention", "tensorfile", "results", "schedule", "criteria", "store", "errors",
    "study_results",
)  # fmt: skip
NO_TORCH = ("flowcut", *(f"flowcut.{name}" for name in LIGHT), "analysis.graph", "scenes", "app.views.ask")


def imports(path: Path) -> Iterator[str]:
    """Full names of the modules that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively: name the room"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def files(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


@pytest.mark.parametrize("room", sorted(ROOMS))
def test_rooms_open_only_their_doors(room: str) -> None:
    for path in files(room):
        for name in imports(path):
            opened = name.split(".")[0]
            assert opened not in ROOMS - {room} or opened in MAY_OPEN[room], f"{path} imports {name}"


def test_analysis_knows_records_only() -> None:
    for path in files("analysis"):
        for name in imports(path):
            assert not name.startswith("flowcut") or name.rpartition(".")[0] in RECORDS or name in RECORDS, (
                f"{path} imports {name}"
            )


@pytest.mark.parametrize("package", sorted(HOMES))
def test_packages_stay_in_their_homes(package: str) -> None:
    for room in sorted(ROOMS):
        for path in files(room):
            where = path.relative_to(ROOT).as_posix()
            if package in {name.split(".")[0] for name in imports(path)}:
                assert where.startswith(HOMES[package]), f"{where} imports {package}"


def test_scenes_need_no_torch() -> None:
    for path in files("scenes"):
        assert {name.split(".")[0] for name in imports(path)} & {"torch", "transformers"} == set(), path


@pytest.mark.parametrize("module", NO_TORCH)
def test_first_screen_loads_no_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit(bool({{'torch', 'transformers'}} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0, module
