"""What all visitors share: the loaded models, the threads that load and answer, and the finished runs.

Streamlit runs a page's script from the start at every click, so loading and answering happen on threads of this module.
A page submits an `Order`, keeps the `Job` it gets, and reads from it how far the answers are. No visitor can reach
another's job: a job is known only to the page that submitted it, and finished runs are found by the hash of their
content alone.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache, partial
from typing import TYPE_CHECKING

import streamlit as st
from cachetools import LRUCache

from flowcut.errors import FlowCutError
from flowcut.media.picture import Picture
from flowcut.media.video import Video
from flowcut.records.run import Run
from flowcut_lens.app.jobs.downloads import Downloads, comes_from_the_hub
from flowcut_lens.app.jobs.explain import explain
from flowcut_lens.app.jobs.imports import CLOSING, COMPARE_PAGE, Pages, given_up, import_alone
from flowcut_lens.app.jobs.models import EMBEDDED, Models, fetch, keep_for_good, warm_up_run
from flowcut_lens.app.jobs.orders import ARM_WORDS, ARMS, Job, Order, run_key
from flowcut_lens.app.jobs.studies import Studies

if TYPE_CHECKING:
    from flowcut.models.loading import VisionLanguageModel
    from flowcut_lens.app.jobs.visitors import Visitor

KEPT_RUNS = 48
"""Finished runs held in memory: about 1 MB each for the embedded model, 3 MB for CLIP-L, with the attention of the
answer tokens up to MOST_ATTENTION_BYTES more."""

MOST_ATTENTION_BYTES = 32 * 2**20
"""Of one run: the attention of the answer tokens is recorded for models and answer lengths that stay below."""

KEPT_FIGURES = 48
"""Prepared figures held in memory: of each comparison two, one for every pruned run (0.2 MB, 0.6 MB for CLIP-L)."""

QUIET_SECONDS = 2.0
"""How long nobody may have waited for an answer or a page before what is not needed for them yet is made ready."""

PAUSE = 0.1
"""Seconds between two looks whether somebody waits."""

CLOSING_SECONDS = 20
"""How long the end of the process waits for a study's step."""

log = logging.getLogger(__name__)


class Runtime:
    """Threads: two fetch models, one loads them, one answers questions, one prepares figures, one runs studies.

    So a question to a model that is in memory does not wait for another that is being fetched or loaded, a second
    question never waits for the first one's figures, and studies wait for questions.
    """

    def __init__(self) -> None:
        self.models = Models()
        self.pages = Pages()
        self._runs: LRUCache[str, Run] = LRUCache(KEPT_RUNS)  # used by the answering thread only, so without a lock
        self._figures: LRUCache[str, Future[bytes]] = LRUCache(KEPT_FIGURES)
        self._figures_lock = threading.Lock()
        self.downloads = Downloads(fetch, lambda job: _line_up(self._loading, self._load_for, job))
        self._loading = ThreadPoolExecutor(1, thread_name_prefix="loading")
        self._answering = ThreadPoolExecutor(1, thread_name_prefix="answering")
        self._drawing = ThreadPoolExecutor(1, thread_name_prefix="figures")
        # Of the last question, and of those that had not ended then: no more of a job, which holds a visitor's picture.
        self._ends: list[threading.Event] = []
        self._ends_lock = threading.Lock()
        self._warm_up: Future[None] | None = None
        self._closing = threading.Event()
        self._busy = threading.Event()
        self.studies = Studies(self.models.load, self._busy.is_set, explain)

    def close(self) -> None:
        """Cancel what waits, stop what runs within one token, and end the threads.

        A thread still inside PyTorch would crash the process's exit. A model that is being downloaded or read is given
        up at its next report of progress, what is being imported at the next module.
        """
        self._closing.set()
        threads = (self._loading, self._answering, self._drawing)
        for thread in threads:
            thread.shutdown(wait=False, cancel_futures=True)
        with given_up():
            self.downloads.close()
            for thread in threads:
                thread.shutdown()
            self.studies.close(CLOSING_SECONDS)

    def submit(self, order: Order, asked_by: Visitor | None = None) -> Job:
        """Queue a question; returns at once."""
        job = Job(order, asked_by=asked_by)
        with self._ends_lock:
            self._ends = [*(end for end in self._ends if not end.is_set()), job.ended]
        if self.models.get(order.model) is None and comes_from_the_hub(order.model):
            self.downloads.wait_for(job)
        elif self.models.get(order.model) is None:
            job.report("Loading the model")
            _line_up(self._loading, self._load_for, job)
        else:
            _line_up(self._answering, self._answer_one, job)
        return job

    def warm_up(self) -> None:
        """Load the embedded model in the background, so that a question finds it there; then the rest, see `_settle`.

        While nobody has asked anything, the page that somebody waits for goes first.
        """
        if self.models.get(EMBEDDED) is None and (self._warm_up is None or self._warm_up.done()):
            self._warm_up = self._loading.submit(self._load_ahead)

    def figures(self, key: str, compute: Callable[[], bytes]) -> Future[bytes]:
        """What `compute` packs of finished runs; made on a thread of its own and kept under `key`, a content hash."""
        with self._figures_lock:
            future = self._figures.get(key)
            if future is None or (future.done() and future.exception() is not None):
                future = self._figures[key] = self._drawing.submit(compute)
            return future

    @property
    def _awaited(self) -> bool:
        """Whether a question has no answer yet."""
        return not all(end.is_set() for end in self._ends)

    def _load_ahead(self) -> None:
        try:
            self._load(EMBEDDED, lambda fraction, text: None if self._awaited else self.pages.wait_until_out())
        except Exception as error:  # the question that needs the model will meet the same error and show it
            self._warn("Loading the embedded model ahead of the first question", error)
        else:
            self._settle_when_quiet(time.monotonic())

    def _settle_when_quiet(self, since: float) -> None:
        """Settle once nobody has waited for a while; until then what is queued on this thread comes in between."""
        if self._closing.wait(PAUSE):
            return
        now = time.monotonic()
        if self._awaited or self.pages.any:
            since = now
        if now - since < QUIET_SECONDS:
            self._loading.submit(self._settle_when_quiet, since)
        else:
            self._settle()

    def _settle(self) -> None:
        """What makes later clicks and answers faster, and the first answer would have had to wait for."""
        model = self.models.get(EMBEDDED)
        try:
            if model is not None and not self._ends:  # no question has done it
                warm_up_run(model)
            keep_for_good()
            import_alone(COMPARE_PAGE)
        except Exception as error:  # whoever asks, or opens the page, meets it again
            self._warn("Getting ready for what comes next", error)

    def _warn(self, what: str, error: Exception) -> None:
        if not self._closing.is_set():
            log.warning("%s failed: %s", what, error)

    def _load_for(self, job: Job) -> None:
        """Load the model of a job, then queue the job to be answered."""
        if job.unwanted:
            job.ended.set()
            return
        try:
            self._load(job.order.model, lambda fraction, text: job.report(text, fraction))
        except Exception as error:
            job.error, job.model_failed = explain(error), True
            job.ended.set()
            return
        job.report("Waiting for a free moment")
        _line_up(self._answering, self._answer_one, job)

    def _load(self, model: str, progress: Callable[[float | None, str], None]) -> VisionLanguageModel:
        """Load a model unless it is there.

        Raises:
            FlowCutError: it cannot be loaded, or the process is about to end.
        """

        def report(fraction: float | None, text: str) -> None:
            if self._closing.is_set():
                raise FlowCutError(CLOSING)
            progress(fraction, text)

        return self.models.load(model, report)

    def _answer_one(self, job: Job) -> None:
        self._busy.set()
        try:
            self._answer(job)
        except Exception as error:
            job.error = explain(error)
        finally:
            self._busy.clear()
            job.ended.set()

    def _answer(self, job: Job) -> None:
        # Another visitor's model may have taken this one's place while the job waited.
        model = self._load(job.order.model, lambda fraction, text: job.report(text, fraction))
        opened = cache(job.order.open)  # an upload is decoded once, and only if one of the answers is not known yet
        for arm in ARMS:
            if job.unwanted or self._closing.is_set():
                return
            job.arms[arm].run = self._run(job, arm, model, opened)

    def _run(self, job: Job, arm: str, model: VisionLanguageModel, opened: Callable[[], Picture | Video]) -> Run:
        key = run_key(job.order, arm, model.revision)
        run = self._runs.get(key)
        if run is None:
            run = self._ask(job, arm, model, opened())
            if not run.stopped:
                self._runs[key] = run
        job.arms[arm].text = run.answer
        return run

    def _ask(self, job: Job, arm: str, model: VisionLanguageModel, opened: Picture | Video) -> Run:
        import flowcut

        order, shown = job.order, job.arms[arm]
        return flowcut.ask(
            model,
            opened,
            order.question,
            cut=order.cut_of(arm),
            settings=order.generation,
            on_text=partial(setattr, shown, "text"),
            on_progress=lambda stage, fraction: job.report(f"{ARM_WORDS[arm]}: {stage}", fraction),
            stop=lambda: job.unwanted or self._closing.is_set(),
            answer_attention=records_answer_attention(model, order),
        )


def _line_up(thread: ThreadPoolExecutor, work: Callable[[Job], None], job: Job) -> None:
    """Queue work on a job; a job whose work was cancelled or failed has ended."""

    def after(done: Future[None]) -> None:
        if done.cancelled() or done.exception() is not None:
            job.ended.set()

    thread.submit(work, job).add_done_callback(after)


def records_answer_attention(model: VisionLanguageModel, order: Order) -> bool:
    """Whether the decoder can be read, and the attention of a longest answer to all visual tokens takes little."""
    from flowcut.decoder.locate import READABLE

    text = model.model.config.text_config
    frames = len(order.source.frames) if isinstance(order.source, Video) else 1
    visual_tokens = model.n_patches if model.family.counts_by_picture else frames * model.n_patches
    per_token = text.num_hidden_layers * text.num_attention_heads * visual_tokens
    raw_and_weighed = 2 * 4 * order.generation.max_new_tokens * per_token  # float32
    return text.model_type in READABLE and raw_and_weighed <= MOST_ATTENTION_BYTES


@st.cache_resource(show_spinner=False)
def runtime() -> Runtime:
    """The one runtime of this process."""
    started = Runtime()
    # The interpreter joins the threads of executors before it calls what `atexit` knows, so `close` must come earlier:
    # it would otherwise wait for every queued question. `concurrent.futures` registers its own end in the same way.
    threading._register_atexit(started.close)  # type: ignore[attr-defined]
    return started
