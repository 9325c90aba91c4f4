"""What the import contracts in pyproject.toml cannot say: what loads when, and that they leave no room out."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
NO_TORCH = (
    "flowcut", "flowcut.errors", "flowcut.cut", "flowcut.settings", "flowcut.published", "flowcut.threads",
    "flowcut.criteria", "flowcut.records.vision",
    "flowcut.records.language",
    "flowcut.models.fit", "flowcut.models.cache",
    "flowcut.records.answer_attention", "flowcut.records.run", "flowcut.records.studies", "flowcut.records.store",
    "flowcut_lens.analysis.stage", "flowcut_lens.scenes", "flowcut_lens.app.views.ask.page", "flowcut_lens.cli.main",
)  # fmt: skip


def test_every_room_of_the_library_has_its_floor() -> None:
    rooms = {
        path.stem for path in (ROOT / "flowcut").iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (floors,) = (contract["layers"] for contract in contracts if contract.get("containers") == ["flowcut"])
    assert {room for floor in floors for room in re.split(r" [:|] ", floor)} == rooms - {"__init__", "_moved"}
    assert len(floors) <= 10


@pytest.mark.parametrize("module", NO_TORCH)
def test_first_screen_loads_no_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit(bool({{'torch', 'transformers'}} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0, module
