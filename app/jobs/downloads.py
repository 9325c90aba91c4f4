"""Models on their way from the Hugging Face hub: one download for all who wait for the same model.

They are on threads of their own, so that nobody's question waits while gigabytes come for somebody else. A download
goes on as long as one of those who asked for it still wants it; what has come stays, and the next one goes on from it.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from flowcut.errors import FlowCutError
from flowcut_lens.app.jobs.explain import explain
from flowcut_lens.app.jobs.imports import CLOSING
from flowcut_lens.app.jobs.models import EMBEDDED
from flowcut_lens.app.jobs.orders import Job

AT_ONCE = 2
"""Downloads; others wait for one of them to end."""
HUB_ID = re.compile(r"[\w.-]{1,96}(/[\w.-]{1,96})?")

Report = Callable[[float | None, str], None]


def comes_from_the_hub(model: str) -> bool:
    """Whether a model of this name would be looked for on the hub."""
    return model != EMBEDDED and HUB_ID.fullmatch(model) is not None and not Path(model).exists()


class _Unwanted(FlowCutError):
    """Nobody waits for the download any more."""


class _Download:
    """One model on its way, and the jobs that wait for it."""

    def __init__(self, model: str) -> None:
        self.model = model
        self.jobs: list[Job] = []


class Downloads:
    """All downloads of this process."""

    def __init__(self, fetch: Callable[[str, Report], None], then: Callable[[Job], None]) -> None:
        """`fetch` brings a model here; `then` takes each job whose model has come."""
        self._fetch, self._then = fetch, then
        self._threads = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="downloading")
        self._running: dict[str, _Download] = {}
        self._lock = threading.Lock()
        self._closing = threading.Event()

    @property
    def last_rate(self) -> float | None:
        """Bytes a second of the last download of this process; None while there was none."""
        from flowcut.models.rate import Rate

        return Rate.last

    def wait_for(self, job: Job) -> None:
        """Let a job wait for its model: for the download that is running, or a new one."""
        job.fetching = True
        job.report("Waiting for another download to end")
        with self._lock:
            running = self._running.get(job.order.model)
            if running is None:
                running = self._running[job.order.model] = _Download(job.order.model)
                self._threads.submit(self._run, running)
            running.jobs.append(job)

    def close(self) -> None:
        """Stop them all."""
        self._closing.set()
        self._threads.shutdown(cancel_futures=True)
        for download in list(self._running.values()):
            self._end(download, None)

    def _run(self, download: _Download) -> None:
        problem: Exception | None = None
        try:
            self._fetch(download.model, lambda fraction, text: self._tell(download, fraction, text))
        except Exception as error:
            problem = error
        self._end(download, problem)

    def _tell(self, download: _Download, fraction: float | None, text: str) -> None:
        """Tell everyone who waits how far it is.

        Raises:
            FlowCutError: nobody does, or the process is about to end.
        """
        if self._closing.is_set():
            raise FlowCutError(CLOSING)
        waiting = [job for job in list(download.jobs) if not job.unwanted]
        if not waiting:
            raise _Unwanted
        for job in waiting:
            job.report(text, fraction)

    def _end(self, download: _Download, problem: Exception | None) -> None:
        with self._lock:
            if self._running.pop(download.model, None) is None:
                return
        sentence = None if problem is None or isinstance(problem, _Unwanted) else explain(problem)
        for job in download.jobs:
            self._hand_on(job, problem, sentence)

    def _hand_on(self, job: Job, problem: Exception | None, sentence: str | None) -> None:
        if job.unwanted or self._closing.is_set():
            job.ended.set()
        elif sentence is not None:
            job.error, job.model_failed = sentence, True
            job.ended.set()
        elif problem is not None:  # it came when the download was just being given up
            self.wait_for(job)
        else:
            job.fetching = False
            self._then(job)
