"""The queue behind the page, with the embedded model: answers, failures, stopping, and what is kept."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from flowcut import Cut, FlowCut
from flowcut.errors import InvalidPicture
from flowcut.media.picture import Picture
from flowcut.media.video import Video
from flowcut.settings import Generation
from flowcut_lens.app.jobs.explain import explain
from flowcut_lens.app.jobs.models import EMBEDDED
from flowcut_lens.app.jobs.orders import ARMS, Job, Order, run_key
from flowcut_lens.app.jobs.runtime import Runtime
from flowcut_lens.scenes import draw

SECONDS = 120


@pytest.fixture(scope="module")
def runtime() -> Iterator[Runtime]:
    started = Runtime()
    yield started
    started.close()


def order(question: str = "What colour is the star?", seed: int = 3, tokens: int = 64, **changes: Any) -> Order:
    settings: dict[str, Any] = {"model": EMBEDDED, "generation": Generation(max_new_tokens=12), **changes}
    cuts = FlowCut(tokens=tokens), Cut("random", tokens=tokens, seed=0)
    return Order(source=Picture(draw(seed).image), question=question, cut=cuts[0], control=cuts[1], **settings)


def key_of(asked: Order, arm: str, revision: str | None) -> str:
    return run_key(asked, arm, revision)


def ended(job: Job) -> Job:
    assert job.ended.wait(SECONDS), job.phase
    return job


def test_three_answers(runtime: Runtime) -> None:
    job = ended(runtime.submit(order()))
    assert job.error is None
    assert job.complete
    runs = [job.arms[arm].run for arm in ARMS]
    assert [run.visual_tokens for run in runs if run] == [576, 64, 64]
    for arm, run in zip(ARMS, runs, strict=True):
        assert run is not None
        assert run.record is not None
        assert run.answer == job.arms[arm].text


def test_equal_content_is_answered_once(runtime: Runtime) -> None:
    first, second = ended(runtime.submit(order())), ended(runtime.submit(order()))
    other_budget = ended(runtime.submit(order(tokens=32)))
    assert all(first.arms[arm].run is second.arms[arm].run for arm in ARMS)
    assert first.arms["full"].run is other_budget.arms["full"].run
    assert first.arms["cut"].run is not other_budget.arms["cut"].run


def test_every_part_of_the_content_counts() -> None:
    keys = [
        key_of(order(), "full", "a"),
        key_of(order(), "cut", "a"),
        key_of(order(), "full", "b"),
        key_of(order(seed=4), "full", "a"),
        key_of(order("Is there a star?"), "full", "a"),
        key_of(order(generation=Generation(max_new_tokens=13)), "full", "a"),
        key_of(order(model="other"), "full", "a"),
    ]
    assert len(set(keys)) == len(keys)
    assert key_of(order(tokens=7), "full", "a") == keys[0]


def test_every_frame_and_its_time_count() -> None:
    frames = tuple(draw(seed).image for seed in (3, 4))
    videos = [
        Video(frames),
        Video(frames[::-1]),
        Video(frames, (0.0, 1.0)),
        Video(frames, (0.0, 2.0)),
    ]
    keys = [run_key(replace(order(), source=one), "full", "a") for one in (Picture(frames[0]), *videos)]
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize("question", ["", "   \n", "x" * 20_000])
def test_questions_that_cannot_be_asked(runtime: Runtime, question: str) -> None:
    job = ended(runtime.submit(order(question)))
    assert not job.complete
    assert job.error
    assert "\n" not in job.error


def test_a_model_that_fails_to_load_leaves_the_old_one(runtime: Runtime) -> None:
    ended(runtime.submit(order()))
    loaded = runtime.models.get(EMBEDDED)
    job = ended(runtime.submit(order(model="/there/is/nothing")))
    assert job.model_failed
    assert job.error
    assert runtime.models.get(EMBEDDED) is loaded
    assert ended(runtime.submit(order("Is there a star?"))).complete


def test_a_stopped_job_ends_and_the_next_one_is_answered(runtime: Runtime) -> None:
    ended(runtime.submit(order()))
    job = runtime.submit(order("Describe the picture.", seed=5))
    job.cancel()
    assert ended(job).error is None
    assert not job.complete
    assert ended(runtime.submit(order("How many stars are there?"))).complete


def test_a_question_does_not_wait_for_figures(runtime: Runtime) -> None:
    hold = threading.Event()
    figures = runtime.figures("slow", lambda: str(hold.wait(SECONDS)).encode())
    assert ended(runtime.submit(order("Is there a ring?"))).complete
    assert not figures.done()
    hold.set()
    assert figures.result(SECONDS) == b"True"


def test_figures_are_made_once_and_again_after_a_failure(runtime: Runtime) -> None:
    made: list[int] = []

    def compute() -> bytes:
        made.append(1)
        if len(made) == 1:
            raise ValueError("not yet")
        return f"times {len(made)}".encode()

    assert runtime.figures("again", compute).exception(SECONDS) is not None
    assert runtime.figures("again", compute).result(SECONDS) == b"times 2"
    assert runtime.figures("again", compute).result(SECONDS) == b"times 2"


def test_closing_stops_what_runs_and_cancels_what_waits() -> None:
    started = Runtime()
    ended(started.submit(order()))
    long = order("Describe the picture.", seed=11, generation=Generation(max_new_tokens=1000))
    running = started.submit(long)
    waiting = [
        started.submit(replace(long, question=question)) for question in ("Is there a star?", "Is there a ring?")
    ]
    waiting.append(started.submit(order(model="/there/is/nothing")))
    while running.phase == "Waiting for a free moment" and not running.ended.is_set():
        time.sleep(0.001)
    began = time.monotonic()
    started.close()
    assert time.monotonic() - began < 10
    assert all(job.ended.is_set() for job in (running, *waiting))
    assert not any(job.complete for job in waiting)
    with pytest.raises(RuntimeError):
        started.submit(order())


def test_a_process_ends_while_questions_wait() -> None:
    """The interpreter waits for the threads of executors: what is queued must not be answered first."""
    program = (
        "from tests.app.test_runtime import ended, order\n"
        "from flowcut_lens.app.jobs.orders import Generation\n"
        "from flowcut_lens.app.jobs.runtime import runtime\n"
        "made = runtime()\n"
        "ended(made.submit(order()))\n"
        "for seed in range(200):\n"
        "    made.submit(order('Describe the picture.', seed=seed))\n"
        "print('asked', flush=True)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline().strip() == "asked"
        assert process.wait(30) == 0


COLD = """
import sys, time
from tests.app.test_runtime import SECONDS, ended, order
from flowcut_lens.app.jobs import models, runtime as module
from flowcut_lens.app.jobs.imports import COMPARE_PAGE
from flowcut_lens.app.jobs.runtime import runtime

def until(condition):
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)

made, done = runtime(), []
warm_up_run, keep_for_good = module.warm_up_run, module.keep_for_good
module.warm_up_run = lambda model: done.append("warm-up run") or warm_up_run(model)
module.keep_for_good = lambda: done.append("kept for good") or keep_for_good()
"""
"""A process in which nothing is loaded yet, and `done` gets to know what is made ready."""


def in_a_cold_process(program: str) -> list[str]:
    """The words that it prints; it must end well, and write nothing else but how weights are read."""
    ran = subprocess.run(
        [sys.executable, "-c", COLD + program], capture_output=True, text=True, timeout=3 * SECONDS, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert "Traceback" not in ran.stderr
    assert "failed" not in ran.stderr
    return ran.stdout.splitlines()


def test_a_first_question_waits_for_nothing_but_its_model() -> None:
    """What it does not need comes when nobody has waited for a while."""
    program = """
module.QUIET_SECONDS = 3 * SECONDS
made.warm_up()
assert ended(made.submit(order())).complete
print(COMPARE_PAGE in sys.modules, *done)
module.QUIET_SECONDS = 0
until(lambda: COMPARE_PAGE in sys.modules)
print(*done)
"""
    assert in_a_cold_process(program) == ["False", "kept for good"]


def test_without_a_question_everything_is_made_ready() -> None:
    program = """
module.QUIET_SECONDS = 0
made.warm_up()
until(lambda: made.models.any_loaded and COMPARE_PAGE in sys.modules)
print(*done)
"""
    assert in_a_cold_process(program) == ["warm-up run kept for good"]


def test_the_end_of_the_process_does_not_wait_for_imports() -> None:
    program = """
made.warm_up()
until(lambda: "torch" in sys.modules)
made.close()
print("flowcut.models.loading" in sys.modules)
"""
    assert in_a_cold_process(program) == ["False"]


def test_errors_become_one_sentence() -> None:
    assert explain(InvalidPicture("It is empty.")) == "It is empty."
    assert "ran out of memory" in explain(MemoryError())
    assert "KeyError" in explain(KeyError("x"))
