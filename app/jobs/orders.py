"""One question to be answered three times: what is asked, its answers as they grow, and the key of each."""

from __future__ import annotations

import hashlib
import json
import threading
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

from flowcut.cut import CutConfig
from flowcut.media.picture import Picture
from flowcut.media.video import Video
from flowcut.records.run import Run
from flowcut.settings import Generation
from flowcut_lens.app.media.uploads import Upload

if TYPE_CHECKING:
    from flowcut_lens.app.jobs.visitors import Visitor

ARMS = ("full", "cut", "control")
"""The three answers to one question: nothing pruned, the chosen method, and random at the same budget."""

ARM_WORDS = {"full": "All tokens", "cut": "Pruned", "control": "Random"}


@dataclass(frozen=True)
class Order:
    """One question to be answered three times."""

    model: str
    """`embedded`, a folder, or a hub id."""
    source: Picture | Upload | Video
    """A picture, the file of one, or the frames of a video."""
    question: str
    cut: CutConfig
    control: CutConfig
    generation: Generation = field(default_factory=Generation)

    def open(self) -> Picture | Video:
        """What the model is asked about; of an upload decoded now."""
        return self.source.open() if isinstance(self.source, Upload) else self.source

    def cut_of(self, arm: str) -> CutConfig | None:
        """What is pruned in this arm; None: nothing."""
        return {"full": None, "cut": self.cut, "control": self.control}[arm]


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
    fetching: bool = False
    """Whether its model is on its way from the hub."""
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


def run_key(order: Order, arm: str, revision: str | None) -> str:
    """Hash of all that a run depends on: model and its revision, picture, question, cut and generation settings."""
    cut, source = order.cut_of(arm), order.source
    settings = [
        order.model,
        revision,
        source.hash,
        source.frames_a_second if isinstance(source, Video) else None,  # some models place frames by it
        order.question,
        cut.as_dict() if cut else None,
        asdict(order.generation),
    ]
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
