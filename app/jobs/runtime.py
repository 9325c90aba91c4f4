"""What outlives one run of a page: the models, the queue that answers questions, and the runs already made.

Streamlit runs a page's script anew at every click. Loading and answering therefore happen on threads of this module; a
page submits an `Order`, keeps the `Job` it gets, and looks at it again and again. Nothing here belongs to one visitor:
jobs are reached only through the object that `submit` returned, and finished runs only by the hash of their content.
"""

from __future__ import annotations

import atexit
import gc
import hashlib
import json
import logging
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING

import streamlit as st
from PIL import Image

from flowcut.cut import CutConfig
from flowcut.generation.settings import Generation
from flowcut.media.picture import Picture, open_picture
from flowcut.media.video import Video
from flowcut.records.run import Run
from flowcut_lens.app.jobs.recent import Recent
from flowcut_lens.app.jobs.studies import Studies
from flowcut_lens.app.media.uploads import Upload

if TYPE_CHECKING:
    from flowcut.models.loading import VisionLanguageModel
    from flowcut_lens.app.jobs.visitors import Visitor

EMBEDDED = "embedded"
ARMS = ("full", "cut", "control")
"""The three answers to one question: nothing pruned, the chosen method, and chance at the same budget."""

KEPT_RUNS = 48
"""Finished runs held in memory (about 1 MB each for the embedded model, 3 MB for CLIP-L; with where each answer token
looked up to MOST_ATTENTION_BYTES more)."""

MOST_ATTENTION_BYTES = 32 * 2**20
"""Of one run: where each answer token looked is recorded for models and answer lengths that stay below."""

KEPT_FIGURES = 48
"""Prepared figures held in memory: of each comparison two, one for every pruned run (0.2 MB, 0.6 MB for CLIP-L)."""

CLOSING_SECONDS = 20
"""How long the end of the process waits for a model that is just being read."""

ARM_WORDS = {"full": "All tokens", "cut": "Pruned", "control": "Random"}

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Order:
    """One question to be answered three times."""

    model: str
    """`embedded`, a folder, or a hub id."""
    image: Image.Image | Upload | Video
    """A picture, the file of one, or the frames of a video."""
    question: str
    cut: CutConfig
    control: CutConfig
    generation: Generation = field(default_factory=Generation)

    def opened(self) -> Picture | Video:
        """What the model is asked about, decoded; to be shared by all answers, since it keeps its hash."""
        return self.image if isinstance(self.image, Video) else open_picture(_pixels(self.image))

    def cut_of(self, arm: str) -> CutConfig | None:
        """What is pruned in this arm; None: nothing."""
        return {"full": None, "cut": self.cut, "control": self.control}[arm]


def _pixels(image: Image.Image | Upload) -> Image.Image:
    return image.image if isinstance(image, Upload) else image


@dataclass
class Arm:
    """One of the three answers as it grows; written by the worker, read by the page."""

    text: str = ""
    run: Run | None = None


@dataclass
class Job:
    """An order on its way. The worker writes, the page reads; each field is replaced whole, so no lock is needed."""

    order: Order
    arms: dict[str, Arm] = field(default_factory=lambda: {arm: Arm() for arm in ARMS})
    phase: str = "Waiting for a free moment"
    """What is being done, in words."""
    fraction: float | None = None
    """Share of this phase that is done, 0 to 1; None: unknown."""
    error: str | None = None
    """Why it failed, one sentence for the person who asked."""
    model_failed: bool = False
    """Whether it was the model that could not be loaded."""
    stop: threading.Event = field(default_factory=threading.Event)
    ended: threading.Event = field(default_factory=threading.Event)
    asked_by: Visitor | None = None
    """Who waits for the answers; None: a program that always does."""

    @property
    def unwanted(self) -> bool:
        """Whether it was stopped, or whoever asked has left for good."""
        return self.stop.is_set() or (self.asked_by is not None and self.asked_by.gone.is_set())

    @property
    def answers(self) -> list[Run]:
        """The answers that are there, in the order of the page."""
        return [arm.run for arm in self.arms.values() if arm.run is not None]

    @property
    def complete(self) -> bool:
        """Whether all three answers are there."""
        return len(self.answers) == len(self.arms)

    def report(self, phase: str, fraction: float | None = None) -> None:
        """Say what is being done now."""
        self.phase, self.fraction = phase, fraction

    def cancel(self) -> None:
        """Stop within one token; a job that is still waiting ends without having started."""
        self.stop.set()
        if not self.complete and not any(arm.text for arm in self.arms.values()):
            self.ended.set()


class Models:
    """The loaded models by name: the embedded one stays, of the others the one loaded last."""

    def __init__(self) -> None:
        self._loaded: dict[str, VisionLanguageModel] = {}
        self._lock = threading.Lock()

    @property
    def any_loaded(self) -> bool:
        """Whether torch and transformers are there: of two threads that import them at once, one can fail."""
        return bool(self._loaded)

    def get(self, name: str) -> VisionLanguageModel | None:
        """The model of this name if it is in memory."""
        return self._loaded.get(name)

    def load(self, name: str, progress: Callable[[float | None, str], None]) -> VisionLanguageModel:
        """Load a model unless it is there already. When it fails, whatever was loaded before stays in use."""
        ready = self._loaded.get(name)
        if ready is not None:
            return ready
        with self._lock:
            if name not in self._loaded:
                progress(None, "Loading PyTorch")
                import flowcut

                model = flowcut.load(name, progress=progress)
                if name == EMBEDDED or model.device != "cpu":  # where it takes a second, not a minute
                    progress(None, "First steps")
                    warm_up_run(model)
                self._loaded = {known: kept for known, kept in self._loaded.items() if known == EMBEDDED}
                self._loaded[name] = model
                # To look for garbage in a whole PyTorch takes half a second, in which nobody's answer gets on. What is
                # loaded stays, so it need not be looked at again (see also runner.postScriptGC in config.toml).
                gc.collect()
                gc.freeze()
            return self._loaded[name]


class Runtime:
    """The queues and their threads: one loads models, one answers questions, one prepares figures, one runs studies.

    So a question to a model that is in memory does not wait for another that is being loaded, a second question never
    waits for the first one's figures, and studies wait for questions.
    """

    def __init__(self) -> None:
        self.models = Models()
        self._runs: Recent[Run] = Recent(KEPT_RUNS)
        self._figures: Recent[Future[bytes]] = Recent(KEPT_FIGURES)
        self._figure_thread = ThreadPoolExecutor(1, thread_name_prefix="figures")
        self._to_load: queue.Queue[Job | tuple[str, str] | None] = queue.Queue()
        self._to_answer: queue.Queue[Job | None] = queue.Queue()
        self._closing = threading.Event()
        self._answering = threading.Event()
        self.studies = Studies(self.models.load, self._answering.is_set, explain)
        work = (self._load_forever, self._answer_forever)
        self._threads = [threading.Thread(target=one, name=one.__name__.strip("_"), daemon=True) for one in work]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Stop within one token and end the threads: a thread still inside PyTorch would crash the process's exit."""
        self._closing.set()
        self._figure_thread.shutdown(wait=False, cancel_futures=True)
        for line in (self._to_load, self._to_answer):
            line.put(None)
        for thread in self._threads:
            thread.join(CLOSING_SECONDS)
        self.studies.close(CLOSING_SECONDS)

    def submit(self, order: Order, asked_by: Visitor | None = None) -> Job:
        """Queue a question; returns at once."""
        job = Job(order, asked_by=asked_by)
        if self.models.get(order.model) is None:
            job.report("Loading the model")
            self._to_load.put(job)
        else:
            self._to_answer.put(job)
        return job

    def warm_up(self, model: str, module: str) -> None:
        """Import a module, then load a model, in the background, so that clicks and questions find them there.

        One thread does both: of two that import PyTorch at once, one can fail.
        """
        if self.models.get(model) is None and self._to_load.empty():
            self._to_load.put((model, module))

    def figures(self, key: str, compute: Callable[[], bytes]) -> Future[bytes]:
        """What `compute` packs of finished runs; made on a thread of its own and kept under `key`, a content hash."""
        future = self._figures.get(key)
        if future is None or (future.done() and future.exception() is not None):
            future = self._figure_thread.submit(compute)
            self._figures.put(key, future)
        return future

    def _load_forever(self) -> None:
        while (wanted := self._to_load.get()) is not None and not self._closing.is_set():
            if isinstance(wanted, tuple):
                self._load_ahead(*wanted)
            elif not wanted.unwanted and self._load_for(wanted):
                self._to_answer.put(wanted)
            else:
                wanted.ended.set()

    def _load_ahead(self, model: str, module: str) -> None:
        try:
            import_module(module)
            self.models.load(model, lambda fraction, text: None)
        except Exception as error:  # the question that needs the model will meet the same error and show it
            log.warning("Loading %s ahead of the first question failed: %s", model, error)

    def _load_for(self, job: Job) -> bool:
        try:
            self.models.load(job.order.model, lambda fraction, text: job.report(text, fraction))
        except Exception as error:
            job.error, job.model_failed = explain(error), True
            return False
        job.report("Waiting for a free moment")
        return True

    def _answer_forever(self) -> None:
        while (job := self._to_answer.get()) is not None and not self._closing.is_set():
            self._answering.set()
            try:
                self._answer(job)
            except Exception as error:
                job.error = explain(error)
            finally:
                self._answering.clear()
                job.ended.set()

    def _answer(self, job: Job) -> None:
        # Another visitor's model may have taken this one's place while the job waited.
        model = self.models.load(job.order.model, lambda fraction, text: job.report(text, fraction))
        medium = job.order.opened()
        for arm in ARMS:
            if job.unwanted:
                return
            job.arms[arm].run = self._run(job, arm, model, medium)

    def _run(self, job: Job, arm: str, model: VisionLanguageModel, medium: Picture | Video) -> Run:
        key = run_key(job.order, arm, model.revision, medium)
        run = self._runs.get(key)
        if run is None:
            run = self._ask(job, arm, model, medium)
            if not run.stopped:
                self._runs.put(key, run)
        job.arms[arm].text = run.answer
        return run

    def _ask(self, job: Job, arm: str, model: VisionLanguageModel, medium: Picture | Video) -> Run:
        import flowcut

        order, shown = job.order, job.arms[arm]
        return flowcut.ask(
            model,
            medium,
            order.question,
            cut=order.cut_of(arm),
            settings=order.generation,
            on_text=partial(setattr, shown, "text"),
            on_progress=lambda stage, fraction: job.report(f"{ARM_WORDS[arm]}: {stage}", fraction),
            stop=lambda: job.unwanted or self._closing.is_set(),
            answer_attention=shows_answer_attention(model, order),
        )


def shows_answer_attention(model: VisionLanguageModel, order: Order) -> bool:
    """Whether the decoder can be read, and the attention of a longest answer to all visual tokens takes little."""
    from flowcut.decoder.locate import READABLE

    text = model.model.config.text_config
    frames = len(order.image.frames) if isinstance(order.image, Video) else 1
    visual_tokens = model.n_patches if model.family.counts_by_picture else frames * model.n_patches
    per_token = text.num_hidden_layers * text.num_attention_heads * visual_tokens
    raw_and_weighed = 2 * 4 * order.generation.max_new_tokens * per_token  # float32
    return text.model_type in READABLE and raw_and_weighed <= MOST_ATTENTION_BYTES


def warm_up_run(model: VisionLanguageModel) -> None:
    """One short answer for nobody: the first one pays for what is set up once, and its times would look too long."""
    import flowcut

    blank = Image.new("RGB", (64, 64), "grey")
    flowcut.ask(model, blank, "Warm?", cut=flowcut.FlowCut(tokens=16), max_new_tokens=2)


def run_key(order: Order, arm: str, revision: str | None, medium: Picture | Video) -> str:
    """Hash of all that a run depends on: model and its revision, pixels, question, cut and generation settings.

    Args:
        medium: what `order.opened()` returned.
    """
    cut = order.cut_of(arm)
    settings = [
        order.model,
        revision,
        medium.hash,
        medium.frames_a_second if isinstance(medium, Video) else None,  # some models place frames by it
        order.question,
        cut.as_dict() if cut else None,
        asdict(order.generation),
    ]
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def explain(error: Exception) -> str:
    """One sentence for the person who asked; what is no error of theirs goes to the log in full."""
    from flowcut.errors import FlowCutError

    if isinstance(error, FlowCutError):
        return str(error)
    log.error("An unexpected error ended a job", exc_info=error)
    if type(error).__name__ in ("OutOfMemoryError", "MemoryError"):
        return "The device ran out of memory: choose a smaller model or ask for fewer new tokens, then ask again."
    return f"Something went wrong inside ({type(error).__name__}: {error}): ask again, or choose another picture."


@st.cache_resource(show_spinner=False)
def runtime() -> Runtime:
    """The one runtime of this process."""
    started = Runtime()
    atexit.register(started.close)
    return started
