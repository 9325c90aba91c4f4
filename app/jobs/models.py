"""The models in memory, shared by all visitors."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from PIL import Image

from flowcut.errors import NoRoom
from flowcut_lens.app.jobs.imports import FOR_A_MODEL, import_alone, no_collections

if TYPE_CHECKING:
    from flowcut.models.loading import VisionLanguageModel

EMBEDDED = "embedded"
"""Name of the model that comes with the program."""


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
        """Load a model unless it is there already. When it fails, whatever was loaded before stays in use.

        The one that it replaces is let go of before, where there is no room for both, else after.
        """
        ready = self._loaded.get(name)
        if ready is not None:
            return ready
        with self._lock:
            if name not in self._loaded:
                model = self._read_beside(name, progress) or _read(name, progress)
                self._let_go()
                self._loaded[name] = model
                if name != EMBEDDED:  # somebody may wait for the embedded model's first answer
                    keep_for_good()
            return self._loaded[name]

    def _read_beside(self, name: str, progress: Callable[[float | None, str], None]) -> VisionLanguageModel | None:
        """The model, read while the one that it replaces is in memory; None where that one had to go first."""
        try:
            return _read(name, progress)
        except NoRoom:
            if not any(known != EMBEDDED for known in self._loaded):
                raise
        self._let_go()
        keep_for_good()
        _empty_the_devices_cache()
        return None

    def _let_go(self) -> None:
        """Hold the embedded model alone."""
        self._loaded = {known: kept for known, kept in self._loaded.items() if known == EMBEDDED}


def _read(name: str, progress: Callable[[float | None, str], None]) -> VisionLanguageModel:
    """A model, and all that was imported for it kept out of garbage collections."""
    with no_collections():
        for module in FOR_A_MODEL:
            progress(None, "Loading PyTorch")
            import_alone(module)
        gc.freeze()
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
