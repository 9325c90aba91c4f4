"""Long computations beside the page: they outlive its script runs, take turns, report how far they are, and can stop.

A study is a generator that yields each partial result as soon as it is there. One thread gives every running study
one step in turn, so that two people's studies get on side by side, and lets questions go first. What was yielded stays,
also after a stop or an error; a finished study is found again by the hash of its content. A study whose watchers have
all left stops.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cachetools import LRUCache

if TYPE_CHECKING:
    from flowcut.models.loading import VisionLanguageModel
    from flowcut_lens.app.jobs.visitors import Visitor

KEPT_STUDIES = 32
"""Ended studies held in memory; those not read for longest are dropped first."""

PAUSE = 0.02
"""Seconds between two checks whether a question is still being answered."""

Work = Callable[["VisionLanguageModel", "Study"], Iterator[Any]]
"""A loaded model and the study to report to in; partial results out."""


@dataclass
class Study:
    """One computation on its way. The studies' thread writes, pages read."""

    results: list[Any] = field(default_factory=list)
    """Everything yielded so far, in order."""
    phase: str = "Waiting for its turn"
    """What is being done, in words."""
    fraction: float = 0.0
    """Share that is done, 0 to 1."""
    seconds: float = 0.0
    """Spent on it so far, turns of others not counted."""
    error: str | None = None
    """Why it failed, one sentence."""
    stop: threading.Event = field(default_factory=threading.Event)
    ended: threading.Event = field(default_factory=threading.Event)
    watchers: set[Visitor] = field(default_factory=set)
    """Everyone who began it or whose page has shown it."""
    abandoned: bool = False
    """Whether it was stopped because they had all left."""

    @property
    def deserted(self) -> bool:
        """Whether everyone who watched it has left for good."""
        watchers = list(self.watchers)
        return bool(watchers) and all(watcher.gone.is_set() for watcher in watchers)

    @property
    def complete(self) -> bool:
        """Whether it came to its end by itself."""
        return self.ended.is_set() and self.error is None and not self.stop.is_set()

    @property
    def latest(self) -> Any:
        """The last partial result; None before the first."""
        return self.results[-1] if self.results else None

    def report(self, phase: str, fraction: float) -> None:
        """Say what is being done now, and how much of all is done."""
        self.phase, self.fraction = phase, fraction


@dataclass(frozen=True)
class Running:
    """A study that has not ended, and the generator that makes its results."""

    study: Study
    steps: Generator[Any, None, None]


def study_key(name: str, *content: Any) -> str:
    """Hash of what a study depends on: plain values, which JSON can hold."""
    return f"{name}-{hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:24]}"


class Studies:
    """The studies of this process, and the thread that gives each running one a step in turn."""

    def __init__(
        self,
        load: Callable[[str, Callable[[float | None, str], None]], VisionLanguageModel],
        busy: Callable[[], bool],
        explain: Callable[[Exception], str],
    ) -> None:
        """
        Args:
            load: gives a model by its name, with a callback for progress.
            busy: whether someone's question is being answered; studies wait meanwhile.
            explain: an exception in one sentence.
        """
        self._load, self._busy, self._explain = load, busy, explain
        self._running: dict[str, Running] = {}
        """In the order of their turns; never dropped."""
        self._ended: LRUCache[str, Study] = LRUCache(KEPT_STUDIES)
        self._changed = threading.Condition()
        """Held whenever one of the two is read or changed."""
        self._closing = False
        self._thread = threading.Thread(target=self._forever, name="studies", daemon=True)
        self._thread.start()

    def find(self, key: str) -> Study | None:
        """The study of this content, running or ended."""
        with self._changed:
            running = self._running.get(key)
            return self._ended.get(key) if running is None else running.study

    def start(self, key: str, model: str, work: Work, watcher: Visitor | None = None) -> Study:
        """The study of this content; begun now unless it runs or is complete. One that was stopped begins anew.

        It stops by itself when everyone who watches it has left; one that nobody watches runs to its end.
        """
        with self._changed:
            study = self.find(key)
            if study is None or (study.ended.is_set() and not study.complete):
                study = Study()
                self._running[key] = Running(study, self._steps(study, model, work))
                self._changed.notify()
            if watcher is not None:
                study.watchers.add(watcher)
            return study

    def close(self, seconds: float) -> None:
        """Stop after the step that is under way."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(seconds)

    def _steps(self, study: Study, model: str, work: Work) -> Generator[Any, None, None]:
        loaded = self._load(model, lambda fraction, text: study.report(text, fraction or 0.0))
        yield from work(loaded, study)

    def _forever(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closing or self._running)
                if self._closing:
                    return
                key, running = next(iter(self._running.items()))
            while self._busy() and not self._closing:
                time.sleep(PAUSE)
            has_more = self._step(running)
            with self._changed:
                del self._running[key]
                if has_more:
                    self._running[key] = running  # now the last in turn
                else:
                    self._ended[key] = running.study
                    running.study.ended.set()

    def _step(self, running: Running) -> bool:
        """One step of one study; whether there is more to do."""
        study, started = running.study, time.perf_counter()
        try:
            if study.deserted and not study.stop.is_set():
                study.abandoned = True
                study.stop.set()
            if study.stop.is_set():
                running.steps.close()
                return False
            study.results.append(next(running.steps))
        except StopIteration:
            study.fraction = 1.0
            return False
        except Exception as error:
            study.error = self._explain(error)
            return False
        finally:
            study.seconds += time.perf_counter() - started
        return True
