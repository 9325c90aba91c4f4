"""torchvision beside a torch that it was not built for.

transformers' video processors need torchvision. Its wheels of some versions are built for CUDA alone: beside a CPU
torch their compiled operators cannot be loaded, and `import torchvision` stops where it describes two of them, `nms`
and `qnms`, which resizing frames never calls. Once the two are declared, without an implementation, the rest works.
They are declared where a model is loaded, and only if torchvision's own cannot be. An environment in which somebody may
import transformers first is mended once: `python -m flowcut.media.torchvision_ops`, which `make setup` runs, leaves a
line for Python's start-up there. Importing flowcut changes nothing.
"""

from __future__ import annotations

import sys
import sysconfig
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

OPERATORS = ("nms", "qnms")
SIGNATURE = "{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"

MODULE = "flowcut.media.torchvision_ops"
START_UP = "flowcut_torchvision.pth"
"""Python runs the line in this file of site-packages whenever it starts."""

_declared: list[Any] = []
"""torch forgets operators together with the library object that declared them."""


class _BeforeTorchvision(MetaPathFinder):
    """Finds nothing: it is asked for torchvision once, before those who do."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname == "torchvision":
            sys.meta_path.remove(self)
            declare_missing_operators()
        return None


def watch_for_torchvision() -> None:
    """Have the operators declared when torchvision is first looked for; costs nothing until then."""
    if "torchvision" not in sys.modules and not any(isinstance(finder, _BeforeTorchvision) for finder in sys.meta_path):
        sys.meta_path.insert(0, _BeforeTorchvision())


def declare_missing_operators() -> bool:
    """Declare `nms` and `qnms` where torchvision is installed and its own operators cannot be loaded; True if done."""
    spec = find_spec("torchvision")
    if spec is None or spec.origin is None or _declared or _loads_its_own(Path(spec.origin).parent):
        return False
    import torch

    library = torch.library.Library("torchvision", "DEF")
    for name in OPERATORS:
        library.define(SIGNATURE.format(name=name))
    _declared.append(library)
    return True


def _loads_its_own(folder: Path) -> bool:
    """Whether torchvision's compiled operators go with the torch that is installed."""
    import torch

    for library in folder.glob("_C.*"):
        try:
            torch.ops.load_library(str(library))
            return True
        except OSError:  # built for another torch: a library that it links to is not there
            continue
    return False


def mend_environment(site_packages: Path) -> bool:
    """Have every Python of this environment watch for torchvision, where the installed one needs it; True if so."""
    file = site_packages / START_UP
    spec = find_spec("torchvision")
    if spec is None or spec.origin is None or _loads_its_own(Path(spec.origin).parent):
        file.unlink(missing_ok=True)
        return False
    file.write_text(f"import {MODULE}; {MODULE}.watch_for_torchvision()\n", encoding="utf-8")
    return True


if __name__ == "__main__":
    if mend_environment(Path(sysconfig.get_path("purelib"))):
        print("torchvision was built for another torch: its missing operators are declared when it is imported.")
