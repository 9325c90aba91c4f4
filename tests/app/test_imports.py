"""Imports that take seconds: one at a time, behind the pages that somebody waits for, and given up at the end."""

from __future__ import annotations

import gc
import time
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

from flowcut.errors import FlowCutError
from flowcut_lens.app.jobs.imports import Pages, given_up, import_alone, no_collections

SECONDS = 60
SLOW = """
from {notes} import began, ended, hold

began.append(__name__)
hold.wait({seconds})
import {after}
ended.append((__name__, len(began)))
"""
NOTES = "import threading\nbegan, ended, hold = [], [], threading.Event()\n"


@pytest.fixture
def slow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> tuple[str, str, str]:
    """The names of two modules that take until `hold` is set, and of the one that holds it."""
    stem = request.node.name
    notes, first, second, after = (f"{stem}_{part}" for part in ("notes", "first", "second", "after"))
    (tmp_path / f"{notes}.py").write_text(NOTES)
    (tmp_path / f"{after}.py").write_text("")
    for name in (first, second):
        (tmp_path / f"{name}.py").write_text(SLOW.format(notes=notes, after=after, seconds=SECONDS))
    monkeypatch.syspath_prepend(tmp_path)
    return first, second, notes


def has_begun(notes: ModuleType) -> None:
    """Wait until a module is being imported."""
    deadline = time.monotonic() + SECONDS
    while not notes.began:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_one_at_a_time(slow: tuple[str, str, str]) -> None:
    first, second, notes = slow
    seen = import_module(notes)
    with ThreadPoolExecutor(2) as threads:
        begun = [threads.submit(import_alone, first)]
        has_begun(seen)
        begun.append(threads.submit(import_alone, second))
        begun.append(threads.submit(import_alone, first))
        assert seen.began == [first]
        seen.hold.set()
        for one in begun:
            one.result(SECONDS)
    assert seen.ended == [(first, 1), (second, 2)], "the second begins when the first has ended"


def test_an_import_is_given_up_at_the_next_module(slow: tuple[str, str, str]) -> None:
    first, second, notes = slow
    seen = import_module(notes)
    with ThreadPoolExecutor(1) as thread:
        begun = thread.submit(import_alone, first)
        has_begun(seen)
        with given_up():
            seen.hold.set()
            with pytest.raises(FlowCutError, match="being closed"):
                begun.result(SECONDS)
            import_module(second)  # another thread's
        thread.submit(import_alone, first).result(SECONDS)
    assert [name for name, _ in seen.ended] == [second, first]


def test_an_import_waits_for_pages() -> None:
    pages = Pages()
    with ThreadPoolExecutor(1) as thread:
        with pages.one_more():
            waiting = thread.submit(pages.wait_until_out, SECONDS)
            with pytest.raises(KeyError), pages.one_more():
                raise KeyError("what a page's script raises ends it too")
            assert pages.any
            assert not waiting.done()
            pages.wait_until_out(0.0)  # not for ever
        waiting.result(SECONDS)
    assert not pages.any


def test_collections_come_back() -> None:
    with no_collections():
        assert not gc.isenabled()
        with no_collections():
            pass
        assert not gc.isenabled()
    assert gc.isenabled()
