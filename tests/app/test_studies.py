"""Long computations beside the page: turns, partial results, stopping, failing, and what is found again."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from flowcut.errors import ModelNotLoaded
from flowcut_lens.app.jobs.explain import explain
from flowcut_lens.app.jobs.studies import KEPT_STUDIES, Studies, Study, study_key

SECONDS = 30


def load(name: str, report: Callable[[float | None, str], None]) -> Any:
    if name == "missing":
        raise ModelNotLoaded("There is no such model.")
    return name


@pytest.fixture
def busy() -> threading.Event:
    return threading.Event()


@pytest.fixture
def studies(busy: threading.Event) -> Iterator[Studies]:
    started = Studies(load, busy.is_set, explain)
    yield started
    started.close(SECONDS)


def counting(upto: int, log: list[str], name: str = "a") -> Any:
    def work(model: Any, study: Study) -> Iterator[int]:
        for number in range(upto):
            log.append(name)
            study.report(f"{number} of {upto}", number / upto)
            yield number

    return work


def ended(study: Study) -> Study:
    assert study.ended.wait(SECONDS)
    return study


def test_results_come_one_by_one(studies: Studies) -> None:
    study = ended(studies.start("key", "model", counting(3, [])))
    assert study.complete
    assert study.results == [0, 1, 2]
    assert study.latest == 2
    assert study.fraction == 1.0


def test_equal_content_is_computed_once(studies: Studies) -> None:
    log: list[str] = []
    first = ended(studies.start("key", "model", counting(3, log)))
    assert studies.start("key", "model", counting(3, log)) is first
    assert studies.find("key") is first
    assert len(log) == 3


def test_two_studies_take_turns(studies: Studies, busy: threading.Event) -> None:
    log: list[str] = []
    busy.set()
    both = [studies.start(name, "model", counting(20, log, name)) for name in "ab"]
    busy.clear()
    for study in both:
        ended(study)
    halfway = log[:20]
    assert min(halfway.count("a"), halfway.count("b")) >= 8


def test_a_question_goes_first(studies: Studies, busy: threading.Event) -> None:
    busy.set()
    study = studies.start("key", "model", counting(1, []))
    assert not study.ended.wait(0.3)
    busy.clear()
    assert ended(study).complete


def test_what_was_found_before_a_stop_stays(studies: Studies) -> None:
    closed = threading.Event()

    def work(model: Any, study: Study) -> Iterator[int]:
        try:
            for number in range(10**6):
                yield number
                time.sleep(0.01)
        finally:
            closed.set()

    study = studies.start("key", "model", work)
    while not study.results:
        time.sleep(0.01)
    study.stop.set()
    ended(study)
    assert not study.complete
    assert study.results
    assert closed.is_set(), "the generator was left hanging"
    assert studies.start("key", "model", counting(1, [])) is not study


@pytest.mark.parametrize(
    ("model", "sentence"), [("missing", "There is no such model."), ("model", "ZeroDivisionError")]
)
def test_an_error_is_one_sentence_and_keeps_what_was_found(studies: Studies, model: str, sentence: str) -> None:
    def work(model: Any, study: Study) -> Iterator[float]:
        yield 1.0
        yield 1 / 0

    study = ended(studies.start("key", model, work))
    assert study.error is not None
    assert sentence in study.error
    assert study.results == ([] if model == "missing" else [1.0])
    assert ended(studies.start("other", "model", counting(1, []))).complete, "one failure must not end the others"


def test_only_so_many_are_kept(studies: Studies) -> None:
    for number in range(KEPT_STUDIES + 5):
        ended(studies.start(str(number), "model", counting(1, [])))
    assert studies.find("0") is None
    assert studies.find(str(KEPT_STUDIES + 4)) is not None


def test_one_that_runs_is_never_dropped(studies: Studies) -> None:
    go_on = threading.Event()

    def work(model: Any, study: Study) -> Iterator[int]:
        while not go_on.is_set():
            yield 0

    running = studies.start("running", "model", work)
    for number in range(KEPT_STUDIES + 5):
        ended(studies.start(str(number), "model", counting(1, [])))
    assert studies.find("running") is running
    go_on.set()
    assert ended(running).complete
    assert studies.find("running") is running


def test_the_key_is_of_the_content() -> None:
    keys = {study_key("a", 1), study_key("a", 2), study_key("b", 1), study_key("a", "1"), study_key("a", 1, None)}
    assert len(keys) == 5
    assert study_key("a", {"x": 1, "y": 2}) == study_key("a", {"y": 2, "x": 1})
