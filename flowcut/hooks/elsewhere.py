"""A cut that was not made, because the model ran in another thread than the one that entered the `with`."""

from __future__ import annotations

from torch import nn

from flowcut.errors import FlowCutError
from flowcut.hooks.attention import watched


class Elsewhere:
    """Whether a model ran only in threads that did not enter the `with`: then no cut was made."""

    def __init__(self, part: str) -> None:
        self._part = part
        self.matters = True
        """False where somebody else sees to it that every thread is cut."""
        self._ran_here = False
        self._ran_elsewhere = False

    def note(self, is_here: bool, module: nn.Module) -> None:
        """It begins to run, here or in another thread, which may watch this module of it in a `with` of its own."""
        if is_here:
            self._ran_here = True
        elif not watched(module):
            self._ran_elsewhere = True

    def check(self) -> None:
        """
        Raises:
            FlowCutError: it ran in other threads only.
        """
        if self.matters and self._ran_elsewhere and not self._ran_here:
            raise FlowCutError(
                f"Nothing was cut: the {self._part} ran only in a thread that did not enter the with, so run it in the "
                "one that did, or enter it there."
            )
