"""The models in memory, shared by all visitors."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from flowcut_lens.app.jobs.heap import return_freed
from flowcut_lens.app.jobs.imports import FOR_A_MODEL, import_alone, no_collections

if TYPE_CHECKING:
    from flowcut.models.loading import VisionLanguageModel

EMBEDDED = "embedded"
"""Name of the model that comes with the program."""
BYTES_A_WEIGHT = {"cpu": 4, "cuda": 2, "mps": 2}
"""As a model is loaded where there is room: float32 on a CPU, 16 bits elsewhere."""
PATIENCE = 60.0
"""Seconds that the next model waits for the one before to be no longer in use."""
PAUSE = 1.0
"""Seconds between two looks whether it still is."""

Progress = Callable[[float | None, str], None]


class Models:
    """The loaded models by name: the embedded one stays, others as long as there is room for the next one."""

    def __init__(self) -> None:
        self._loaded: dict[str, VisionLanguageModel] = {}  # replaced whole: read without the lock
        self._used: dict[str, float] = {}
        self._lock = threading.Lock()

    @property
    def any_loaded(self) -> bool:
        """Whether torch and transformers are there: of two threads that import them at once, one can fail."""
        return bool(self._loaded)

    def get(self, name: str) -> VisionLanguageModel | None:
        """The model of this name if it is in memory."""
        return self._loaded.get(name)

    def load(self, name: str, progress: Progress) -> VisionLanguageModel:
        """Load a model unless it is there already; those used longest ago make room for it.

        When it fails, those that were loaded before and still are stay in use.
        """
        self._used[name] = time.monotonic()
        ready = self._loaded.get(name)
        if ready is not None:
            return ready
        with self._lock:
            if name not in self._loaded:
                _import_all(progress)
                self._make_room(name, progress)
                self._loaded = {**self._loaded, name: _read(name, progress)}
            return self._loaded[name]

    def _make_room(self, name: str, progress: Progress) -> None:
        """Let go of models, the one that was used longest ago first, until the next one fits beside the others."""
        while (others := [other for other in self._loaded if other != EMBEDDED]) and not has_room_for(name):
            oldest = min(others, key=lambda other: self._used.get(other, 0.0))
            leaving = weakref.ref(self._loaded[oldest])
            self._loaded = {other: kept for other, kept in self._loaded.items() if other != oldest}
            _wait_until_gone(leaving, oldest, progress)


def has_room_for(name: str) -> bool:
    """Whether the weights of a model fit into the memory that is free now, in full precision on a CPU.

    True of a model whose weights are not on this machine: loading it fails before anything is read.
    """
    from flowcut.models.cache import complete_snapshot, numbers_in
    from flowcut.models.fit import machine
    from flowcut.models.memory import SHARE_FOR_WEIGHTS

    folder, here = Path(name) if Path(name).is_dir() else complete_snapshot(name), machine()
    if folder is None or here.memory is None:
        return folder is None
    try:
        parameters = numbers_in(folder)
    except (ValueError, KeyError, AttributeError, OSError):  # of a broken file: loading says what is wrong with it
        return True
    return parameters * BYTES_A_WEIGHT[here.device] <= SHARE_FOR_WEIGHTS * here.memory


def _wait_until_gone(leaving: weakref.ref[VisionLanguageModel], name: str, progress: Progress) -> None:
    """Until its memory is free: an answer that it is giving, or a step of a study, comes to its end first."""
    deadline = time.monotonic() + PATIENCE
    while True:
        keep_for_good()  # what refers to itself in circles is ended by a collection only
        if leaving() is None or time.monotonic() > deadline:
            break
        progress(None, f"Waiting until {name} is no longer in use, to make room")
        time.sleep(PAUSE)
    return_freed()
    _empty_the_devices_cache()


def _import_all(progress: Progress) -> None:
    """What a model needs; kept out of garbage collections."""
    with no_collections():
        for module in FOR_A_MODEL:
            progress(None, "Loading PyTorch")
            import_alone(module)
        gc.freeze()


def fetch(name: str, progress: Progress) -> None:
    """Bring a model from the hub onto this machine, without loading it."""
    _import_all(progress)
    from flowcut.models.loading import fetch_only

    fetch_only(name, progress)


def _read(name: str, progress: Progress) -> VisionLanguageModel:
    """A model, kept out of garbage collections."""
    import flowcut

    model = flowcut.load(name, progress=progress)
    if model.device != "cpu":  # there the first answer would take seconds longer than every other
        progress(None, "First steps")
        warm_up_run(model)
    if name == EMBEDDED:
        gc.freeze()  # at once: somebody may wait for its first answer
    return model


def _empty_the_devices_cache() -> None:
    """What was freed on a GPU goes back to it, where the check of a next model's size can see it."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def keep_for_good() -> None:
    """Take all objects that are in use now out of later garbage collections.

    A collection through all of PyTorch takes half a second, in which no answer goes on, and so does this: it is for
    when nobody waits. See also runner.postScriptGC in config.toml.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()


def warm_up_run(model: VisionLanguageModel) -> None:
    """One short answer that is not shown: the first one pays for what is set up once, so its times are too long."""
    import flowcut

    blank = Image.new("RGB", (64, 64), "grey")
    cut = None if model.family.unread else flowcut.FlowCut(tokens=16)
    flowcut.ask(model, blank, "Warm?", cut=cut, max_new_tokens=2)
