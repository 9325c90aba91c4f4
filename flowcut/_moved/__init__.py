"""The modules of version 0.1 under their old paths: `from flowcut.record import FlowRecord` still works, and warns.

`flowcut/__init__.py` looks for submodules in this folder too. Each file here stands for one old module and says where
its names are now; nothing is imported before a name is asked for, so that an old path brings in no torch by itself.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Mapping
from importlib import import_module
from types import MappingProxyType, ModuleType
from typing import Any
from warnings import warn

HOME_OF_RECORD = "flowcut.encoder.recording"
NOTHING: Mapping[str, str] = MappingProxyType({})


def names_from(
    old: str, *homes: str, only: Collection[str] | None = None, renamed: Mapping[str, str] = NOTHING
) -> Callable[[str], Any]:
    """A module's `__getattr__` that finds the names of an old module where they are now, with a DeprecationWarning.

    Args:
        old: the module's own name.
        homes: modules to look in, the first that has the name counts.
        only: the names that moved, where the old module is a package today and its other names are its own.
        renamed: from an old name to the one that it has now.
    """

    def find(name: str) -> Any:
        if (only is None or name in only) and not name.startswith("__"):
            now = renamed.get(name, name)
            for home in homes:
                if hasattr(import_module(home), now):
                    warn(f"{old}.{name} is now {home}.{now}.", DeprecationWarning, stacklevel=2)
                    return getattr(sys.modules[home], now)
        raise AttributeError(f"module {old!r} has no attribute {name!r}")

    return find


class RecordModule(ModuleType):
    """`flowcut.record` is a function, and was a module as well: once that is imported, it is called in its place."""

    def __call__(self, *args: Any, **settings: Any) -> Any:
        """`flowcut.encoder.recording.record`."""
        return import_module(HOME_OF_RECORD).record(*args, **settings)
