"""The models in memory, shared by all visitors."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from PIL import Image

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
                # A garbage collection through all of PyTorch takes half a second, in which no answer goes on. What is
                # loaded stays, so it is taken out of later collections (see also runner.postScriptGC in config.toml).
                gc.collect()
                gc.freeze()
            return self._loaded[name]


def warm_up_run(model: VisionLanguageModel) -> None:
    """One short answer that is not shown: the first one pays for what is set up once, so its times are too long."""
    import flowcut

    blank = Image.new("RGB", (64, 64), "grey")
    flowcut.ask(model, blank, "Warm?", cut=flowcut.FlowCut(tokens=16), max_new_tokens=2)
