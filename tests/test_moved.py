"""The module paths of version 0.1: every public name that a module defined there is still found under its old path.

`moved_names.json` holds them as they were: module -> the names without an underscore that it defined, space between.
"""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
import warnings
from importlib import import_module
from pathlib import Path

import pytest

import flowcut
from tests import tiny

OLD_NAMES = json.loads((Path(__file__).parent / "moved_names.json").read_text(encoding="utf-8"))
SHIMS = {path.stem for path in (Path(flowcut.__file__).parent / "_moved").glob("*.py")} - {"__init__"}


@pytest.mark.parametrize("module", OLD_NAMES)
def test_old_names_are_found_under_their_old_paths(module: str) -> None:
    found = import_module(module)
    missing = [name for name in OLD_NAMES[module].split() if not hasattr(found, name)]
    assert missing == []


def test_every_shim_stands_for_an_old_module_and_none_hides_a_new_one() -> None:
    assert {f"flowcut.{shim}" for shim in SHIMS} <= set(OLD_NAMES)
    assert not SHIMS & {path.stem for path in Path(flowcut.__file__).parent.iterdir()}


def test_an_old_path_says_where_the_name_is_now() -> None:
    with pytest.warns(DeprecationWarning, match=r"flowcut\.schedule\.prunes_after is now flowcut\.criteria\.flowcut\."):
        from flowcut.schedule import prunes_after  # type: ignore[import-not-found]
    from flowcut.criteria.flowcut import prunes_after as now

    assert prunes_after is now
    with pytest.raises(ImportError, match="no_such_name"):
        from flowcut.schedule import no_such_name  # noqa: F401


def test_the_packages_own_names_are_no_old_ones() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        from flowcut.media import picture, video  # noqa: F401
        from flowcut.models import loading, memory  # noqa: F401
        from flowcut.studies import compare_methods, steps  # noqa: F401


def test_record_is_the_function_whether_or_not_the_old_module_was_imported() -> None:
    """Importing a submodule binds it in its package: what was `flowcut.record`, the function, is then the module."""
    cut, pixels, results = flowcut.FlowCut(tokens=9), tiny.pixels(), []
    for old_module in (None, "flowcut.record"):
        if old_module is not None:
            import_module(old_module)
        model = tiny.clip()
        with flowcut.record(model, cut=cut) as recording:
            model(pixels)
        results.append(recording.record.kept_patch_ids.tolist())
    assert results[0] == results[1]
    from flowcut.record import FlowRecord  # type: ignore[import-not-found]

    assert FlowRecord is flowcut.FlowRecord is flowcut.record.FlowRecord  # type: ignore[attr-defined]


def test_a_pickle_of_an_old_path_is_read() -> None:
    assert pickle.loads(b"cflowcut.results\nTimes\n.") is flowcut.Times


def test_old_paths_by_themselves_bring_in_no_torch_and_leave_the_import_machinery_alone() -> None:
    names = ", ".join(f"flowcut.{shim}" for shim in sorted(SHIMS))
    code = f"""
import sys
before = list(sys.meta_path), list(sys.path_hooks), __import__
import {names}, flowcut.media
from flowcut.record import FlowRecord
from flowcut.schedule import CutConfig
from flowcut.cli import main
assert before == (list(sys.meta_path), list(sys.path_hooks), __import__)
sys.exit(bool({{"torch", "transformers"}} & set(sys.modules)))
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_old_command_as_a_module() -> None:
    done = subprocess.run([sys.executable, "-m", "flowcut.cli", "--help"], capture_output=True, text=True)
    assert done.returncode == 0
    assert "ask" in done.stdout
