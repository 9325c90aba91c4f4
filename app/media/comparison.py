"""The three answers to one question, as the pages hand them around."""

from __future__ import annotations

from dataclasses import dataclass

from flowcut.records.run import Run
from flowcut_lens.app.media.chosen import ChosenPicture


@dataclass(frozen=True, eq=False)
class Comparison:
    """One question answered with all visual tokens, with those that a method kept, and with as many random ones."""

    picture: ChosenPicture
    full: Run
    cut: Run
    control: Run
    stored: bool = False
    """Whether the answers were read from disk, made earlier."""

    @property
    def runs(self) -> tuple[Run, Run, Run]:
        """The three runs in the order of the page."""
        return self.full, self.cut, self.control

    def pruned(self, arm: str) -> Run:
        """The run to compare with the full one: `cut` or `control`."""
        return {"cut": self.cut, "control": self.control}[arm]
