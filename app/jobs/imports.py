"""Imports that take seconds: one at a time, and after the page that somebody is waiting for.

Of two threads that import PyTorch, or scipy, at once, one can fail: it meets modules that the other has not finished.
"""

from __future__ import annotations

import gc
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

from flowcut.errors import FlowCutError

FOR_A_MODEL = (
    "torch",
    "flowcut.families.processors",
    "flowcut.hooks.attention",
    "flowcut.models.loading",
    "flowcut.generation.ask",
)
"""What loading and asking a model needs, in parts: between two of them a page has its turn."""
COMPARE_PAGE = "flowcut_lens.app.views.compare.page"
"""Of our own modules the one that takes longest: the first screen does not wait for it."""
CLOSING = "FlowCut Lens is being closed."
"""What a question is told that comes too late."""
PATIENCE = 1.0
"""Seconds that an import waits for pages that are being made: with many visitors there is always one."""

_importing = threading.Lock()
_here = threading.local()
"""Its `imports` is there on the thread that imports now."""
_imported: set[str] = set()


def import_alone(module: str) -> None:
    """Import a module while no other thread imports one here; no waiting where it is there.

    Raises:
        FlowCutError: the process ends meanwhile.
    """
    if module not in _imported:
        with _importing:
            _here.imports = True
            try:
                import_module(module)
            finally:
                del _here.imports
        _imported.add(module)


class _GivesUp(MetaPathFinder):
    """Finds nothing; whoever looks for a module on a thread that imports one alone is told to stop."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if hasattr(_here, "imports"):
            raise FlowCutError(CLOSING)
        return None


@contextmanager
def given_up() -> Iterator[None]:
    """Inside the `with`, imports on their way end at the next module that they look for, instead of seconds later."""
    finder = _GivesUp()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


@contextmanager
def no_collections() -> Iterator[None]:
    """Python collects no garbage inside the `with`.

    Imports make many objects that all stay: collections go through them again and again, for an eighth of the time.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


class Pages:
    """The pages that are being made now, by scripts on threads of their own."""

    def __init__(self) -> None:
        self._count = 0
        self._changed = threading.Condition()

    @property
    def any(self) -> bool:
        """Whether one is being made."""
        return self._count > 0

    @contextmanager
    def one_more(self) -> Iterator[None]:
        """A page is made inside the `with`."""
        with self._changed:
            self._count += 1
        try:
            yield
        finally:
            with self._changed:
                self._count -= 1
                self._changed.notify_all()

    def wait_until_out(self, seconds: float = PATIENCE) -> None:
        """Wait until no page is being made, at most so long."""
        with self._changed:
            self._changed.wait_for(lambda: not self.any, seconds)
