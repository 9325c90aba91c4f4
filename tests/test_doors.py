"""The doors between the rooms, read from the imports of every file."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("flowcut", "analysis", "cli", "app", "scenes", "training", "benchmarks")

MAY_OPEN = {
    "flowcut": set(),
    "analysis": {"flowcut"},
    "scenes": set(),
    "cli": {"flowcut", "analysis"},
    "app": {"flowcut", "analysis", "scenes"},
    "training": {"flowcut", "scenes"},
    "benchmarks": {"flowcut", "analysis", "scenes"},
}
RECORDS = ("flowcut.records", "flowcut.cut")
"""What analysis may know of the library: records and results, never a model."""

HOMES = {
    "streamlit": ("app",),
    "transformers": ("flowcut", "training", "benchmarks"),  # benchmarks measure the stock model beside ours
    "plotly": ("analysis/figures", "app"),
    "matplotlib": ("analysis/figures", "app"),
}
NO_TORCH = (
    "flowcut", "flowcut.errors", "flowcut.cut", "flowcut.criteria", "flowcut.records.vision",
    "flowcut.records.language",
    "flowcut.records.answer_attention", "flowcut.records.run", "flowcut.records.studies", "flowcut.records.store",
    "flowcut_lens.analysis.stage", "flowcut_lens.scenes", "flowcut_lens.app.views.ask.page", "flowcut_lens.cli.main",
)  # fmt: skip


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


def folder_of(name: str) -> str:
    """The folder that a module of ours lies in; of others the name of their package."""
    parts = name.split(".")
    return parts[1] if parts[0] == "flowcut_lens" and len(parts) > 1 else parts[0]


@pytest.mark.parametrize("folder", FOLDERS)
def test_folders_open_only_their_doors(folder: str) -> None:
    for path in files(folder):
        for name in imports(path):
            opened = folder_of(name)
            assert opened not in FOLDERS or opened == folder or opened in MAY_OPEN[folder], f"{path} imports {name}"


def test_analysis_knows_records_only() -> None:
    for path in files("analysis"):
        for name in imports(path):
            assert not name.startswith("flowcut.") or name.startswith(RECORDS), f"{path} imports {name}"


@pytest.mark.parametrize("package", sorted(HOMES))
def test_packages_stay_in_their_homes(package: str) -> None:
    for folder in FOLDERS:
        for path in files(folder):
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
