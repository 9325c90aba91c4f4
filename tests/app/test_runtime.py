"""The queue behind the page, with the embedded model: answers, failures, stopping, and what is kept."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from flowcut import Cut, FlowCut
from flowcut.errors import InvalidPicture
from flowcut.generation.settings import Generation
from flowcut.media.video import Video
from flowcut_lens.app.jobs.recent import Recent
from flowcut_lens.app.jobs.runtime import ARMS, EMBEDDED, Job, Order, Runtime, explain, run_key
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
    return Order(image=draw(seed).image, question=question, cut=cuts[0], control=cuts[1], **settings)


def key_of(asked: Order, arm: str, revision: str | None) -> str:
    return run_key(asked, arm, revision, asked.opened())


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
    keys = [key_of(replace(order(), image=one), "full", "a") for one in (frames[0], *videos)]
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


def test_recent_forgets_what_was_not_used() -> None:
    kept: Recent[int] = Recent(2)
    kept.put("a", 1)
    kept.put("b", 2)
    assert kept.get("a") == 1
    kept.put("c", 3)
    assert (kept.get("a"), kept.get("b"), kept.get("c")) == (1, None, 3)


def test_errors_become_one_sentence() -> None:
    assert explain(InvalidPicture("It is empty.")) == "It is empty."
    assert "ran out of memory" in explain(MemoryError())
    assert "KeyError" in explain(KeyError("x"))
