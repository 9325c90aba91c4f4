"""Models that come from a hub on this machine, for the queue behind the page: shared, stopped, resumed, failed."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from flowcut.media.picture import Picture
from flowcut_lens.app.jobs import models
from flowcut_lens.app.jobs.downloads import comes_from_the_hub
from flowcut_lens.app.jobs.orders import Job
from flowcut_lens.app.jobs.runtime import Runtime
from flowcut_lens.app.jobs.visitors import Visitor
from tests import tiny
from tests.app.test_runtime import ended, order
from tests.models.hub_server import Hub, Repository, ask_instead

NAMES = ("someone/first", "someone/second", "someone/third")
SECONDS = 60
SLOWLY = 0.06
"""Seconds for 4 kB: of about 200 kB."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.checkpoint(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def hub(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    started = Hub()
    ask_instead(started, tmp_path / "cache", monkeypatch)
    for name in NAMES:
        started.repositories[name] = Repository(folder)
    yield started
    started.close()


@pytest.fixture
def runtime(hub: Hub) -> Iterator[Runtime]:
    started = Runtime()
    yield started
    started.close()


def asked(runtime: Runtime, model: str, visitor: Visitor | None = None) -> Job:
    about = replace(order("What?", tokens=9, model=model), source=Picture(tiny.picture()))
    return runtime.submit(about, visitor)


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def on_its_way(job: Job) -> bool:
    return job.phase.startswith("Downloading") and (job.fraction or 0) > 0.1


def downloading() -> int:
    return sum(thread.name == "transfer" for thread in threading.enumerate())


def test_fetched_loaded_and_answered(runtime: Runtime, hub: Hub) -> None:
    hub.repositories[NAMES[0]].seconds_a_piece = SLOWLY / 4
    job = asked(runtime, NAMES[0])
    until(lambda: on_its_way(job) or job.ended.is_set())
    assert ended(job).error is None
    assert job.complete
    assert job.answers[0].model_id == NAMES[0]
    assert not job.fetching


def test_all_who_wait_see_one_download(runtime: Runtime, hub: Hub) -> None:
    hub.repositories[NAMES[0]].seconds_a_piece = SLOWLY
    jobs = [asked(runtime, NAMES[0]) for _ in range(3)]
    until(lambda: all(on_its_way(job) for job in jobs))
    assert len({job.phase for job in jobs}) <= 2  # it may be moving on just now
    jobs[0].cancel()
    assert jobs[0].ended.is_set()
    hub.repositories[NAMES[0]].seconds_a_piece = 0
    assert all(ended(job).complete for job in jobs[1:])
    assert not jobs[0].complete
    assert hub.repositories[NAMES[0]].asked == ["bytes=0-"]


def test_stopped_by_the_last_who_waits_and_taken_up_again(runtime: Runtime, hub: Hub) -> None:
    hub.repositories[NAMES[0]].seconds_a_piece = SLOWLY
    jobs = [asked(runtime, NAMES[0], Visitor("somebody")) for _ in range(2)]
    until(lambda: on_its_way(jobs[0]))
    jobs[0].cancel()
    assert jobs[1].asked_by is not None
    jobs[1].asked_by.gone.set()
    began = time.monotonic()
    until(lambda: jobs[1].ended.is_set() and downloading() == 0)
    assert time.monotonic() - began < 3
    hub.repositories[NAMES[0]].seconds_a_piece = 0
    assert ended(asked(runtime, NAMES[0])).complete
    first, second = hub.repositories[NAMES[0]].asked
    assert (first, second != first) == ("bytes=0-", True)


def test_nobody_else_waits(runtime: Runtime, hub: Hub) -> None:
    """While two models come slowly, questions to the embedded one and to one in memory are answered."""
    assert ended(asked(runtime, NAMES[2])).complete
    assert ended(runtime.submit(order())).complete
    for name in NAMES[:2]:
        hub.repositories[name].seconds_a_piece = 5.0
    slow = [asked(runtime, name) for name in NAMES[:2]]
    until(lambda: all("Downloading" in job.phase for job in slow))
    assert ended(runtime.submit(order("Is there a ring?"))).complete
    assert ended(asked(runtime, NAMES[2])).complete
    assert not any(job.ended.is_set() for job in slow)
    began = time.monotonic()
    runtime.close()
    assert time.monotonic() - began < 5
    assert all(job.ended.is_set() for job in slow)
    assert downloading() == 0


@pytest.mark.parametrize(
    ("name", "change", "sentence"),
    [
        ("someone/nothing", {}, "There is no model"),
        (NAMES[0], {"gated": True}, "is a gated model"),
        (NAMES[0], {"refused": 404}, "answered 404"),
    ],
)
def test_failures_are_one_sentence(
    runtime: Runtime, hub: Hub, name: str, change: dict[str, object], sentence: str
) -> None:
    for field, value in change.items():
        setattr(hub.repositories[name], field, value)
    job = ended(asked(runtime, name))
    assert job.model_failed
    assert sentence in (job.error or "")
    assert "\n" not in (job.error or "")
    assert ended(asked(runtime, NAMES[1])).complete


def test_a_model_that_is_replaced_is_gone(runtime: Runtime, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ended(runtime.submit(order())).complete
    assert ended(asked(runtime, NAMES[0])).complete
    assert ended(asked(runtime, NAMES[1])).complete
    assert runtime.models.get(NAMES[0]) is not None, "there is room for both"
    first = weakref.ref(runtime.models.get(NAMES[0]).model)  # type: ignore[union-attr]  # it is there
    assert ended(asked(runtime, NAMES[0])).complete  # so the second was used longest ago
    second = weakref.ref(runtime.models.get(NAMES[1]).model)  # type: ignore[union-attr]  # it is there
    room = iter([False, True])
    monkeypatch.setattr(models, "has_room_for", lambda name: next(room))
    assert ended(asked(runtime, NAMES[2])).complete
    assert (runtime.models.get(NAMES[1]), second()) == (None, None)
    assert runtime.models.get(NAMES[0]) is not None
    monkeypatch.setattr(models, "has_room_for", lambda name: False)
    assert ended(asked(runtime, NAMES[1])).complete
    assert first() is None
    assert [name for name in NAMES if runtime.models.get(name)] == [NAMES[1]]
    assert runtime.models.get("embedded") is not None


def test_room_is_looked_for_in_memory(hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from flowcut.models import memory
    from flowcut.models.cache import numbers_in

    needed = 4 * numbers_in(folder)
    for free, fits in ((needed, False), (2 * needed, True), (None, False)):
        monkeypatch.setattr(memory, "free", lambda free=free: free)
        assert models.has_room_for(str(folder)) is fits
        assert models.has_room_for("someone/not-here")


@pytest.mark.parametrize(
    ("name", "answer"),
    [("someone/model", True), ("gpt2", True), ("embedded", False), ("/a/folder", False), ("a/b/c", False), ("", False)],
)
def test_what_comes_from_the_hub(name: str, answer: bool) -> None:
    assert comes_from_the_hub(name) is answer


def test_a_folder_does_not(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    assert not comes_from_the_hub(folder.name)
