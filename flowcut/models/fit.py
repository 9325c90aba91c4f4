"""Which published models this machine has room for: memory and disk. Needs no torch where there is no GPU."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from shutil import disk_usage, which

from flowcut.models import memory
from flowcut.models.cache import Cached, cache_folder, cached
from flowcut.published import Published, published_models

LEAST_BYTES = 2
"""Of a weight: bfloat16 or float16, in which a model is loaded where memory is short."""


@dataclass(frozen=True)
class Machine:
    """What this machine has to spare."""

    device: str
    """Where a model would be: cuda, mps or cpu."""
    memory: int | None
    """Bytes free for a model there; None where nobody says."""
    disk: int | None
    """Bytes free where the hub's cache is."""
    cache: Path
    """The hub's cache."""


@dataclass(frozen=True)
class Fit:
    """How one published model stands on a machine."""

    model: Published
    here: Cached
    needs: int | None
    """Bytes of memory for its weights at the least, in 16 bits; None: its size is not known."""
    memory: bool | None
    """Whether they fit, with room for what a question needs besides; None: not known."""
    disk: bool | None
    """Whether what is not here yet fits on the disk; None: not known."""

    @property
    def missing(self) -> int | None:
        """Bytes that are yet to be fetched; None: not known."""
        if self.here.complete:
            return 0
        return None if self.model.size is None else max(0, self.model.size.download - self.here.bytes)

    @property
    def both(self) -> bool:
        """Whether nothing that is known speaks against it, and its size is known."""
        return self.model.size is not None and self.memory is not False and self.disk is not False


def machine(may_import_torch: bool = True) -> Machine:
    """This machine as it is now; a GPU is looked for with torch, and only where there could be one."""
    device, free = "cpu", memory.free()
    if _may_have_gpu() and (may_import_torch or "torch" in sys.modules):
        import torch

        if torch.cuda.is_available():
            device, free = "cuda", int(torch.cuda.mem_get_info()[0])
        elif torch.backends.mps.is_available():
            device, free = "mps", None
    return Machine(device, free, free_disk(), cache_folder())


def _may_have_gpu() -> bool:
    return sys.platform == "darwin" or which("nvidia-smi") is not None or Path("/proc/driver/nvidia").exists()


def free_disk() -> int | None:
    """Bytes that are free where the hub's cache is, or will be; None where nobody says."""
    place = cache_folder()
    for folder in (place, *place.parents):
        try:
            return disk_usage(folder).free
        except OSError:  # not there yet
            continue
    return None


def fit(model: Published, on: Machine) -> Fit:
    """How a published model stands on this machine."""
    here = cached(model.name)
    if model.size is None:
        return Fit(model, here, None, None, True if here.complete else None)
    needs = LEAST_BYTES * model.size.parameters
    in_memory = None if on.memory is None else needs <= memory.SHARE_FOR_WEIGHTS * on.memory
    missing = 0 if here.complete else max(0, model.size.download - here.bytes)
    return Fit(model, here, needs, in_memory, None if on.disk is None else missing <= on.disk)


def smallest(on: Machine) -> Fit | None:
    """The published model to begin with: the smallest that fits, of those that are here already if any is.

    One that needs a login is not meant, unless it is here. None: none fits.
    """
    fits = [one for one in (fit(model, on) for model in published_models()) if one.both]
    ready = [one for one in fits if one.here.complete]
    open_to_all = [one for one in fits if one.model.size is not None and not one.model.size.gated]
    return min(ready or open_to_all, key=_parameters, default=None)


def _parameters(one: Fit) -> int:
    return 0 if one.model.size is None else one.model.size.parameters
