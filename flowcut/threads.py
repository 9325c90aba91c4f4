"""How our processes use a machine that they share: set before torch is imported, unless the user has set it.

OpenMP's threads spin while they wait for each other. On a machine whose cores are busy, or in a container with a quota,
that makes an answer ten to twenty times slower. OpenMP reads its environment once, when torch loads it.
"""

from __future__ import annotations

import os
from collections.abc import MutableMapping
from pathlib import Path

WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
"""What a user sets to say how threads wait."""
COUNTS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
"""What a user sets to say how many threads there are."""
CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUP = Path("/proc/self/cgroup")


def share_processors(environment: MutableMapping[str, str] = os.environ) -> None:
    """Let threads sleep while they wait, and start no more of them than the process may run at once.

    What the user has set stays. Call it before torch is imported: later it changes nothing.

    Args:
        environment: the variables of the process.
    """
    if not any(name in environment for name in WAITING):
        environment["OMP_WAIT_POLICY"] = "PASSIVE"
    allowed = allowed_processors()
    if allowed < (os.cpu_count() or 1) and not any(name in environment for name in COUNTS):
        environment["OMP_NUM_THREADS"] = str(allowed)


def allowed_processors() -> int:
    """How many processors this process may keep busy, at least 1: those it is bound to, and its quota.

    A quota is rounded down: one thread more than it pays for stops all of them for a part of each period.
    """
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cpu_quota()
    return bound if quota is None else max(1, min(bound, int(quota)))


def cpu_quota(root: Path = CGROUPS, own: Path = OWN_CGROUP) -> float | None:
    """Processors that the control group of this process, or one above it, allows; None: no limit is known.

    Args:
        root: where control groups are mounted, of version 1 or 2.
        own: the file that names the group of this process.
    """
    quotas = [quota for folder in _groups(root, own) if (quota := _quota_of(folder)) is not None]
    return min(quotas, default=None)


def _groups(root: Path, own: Path) -> list[Path]:
    """The group's folders, from the root down; in a container the root is often the group itself."""
    folders = [root, root / "cpu"]
    for line in _read(own).splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "" or "cpu" in controllers.split(","):
            top = root if controllers == "" else root / "cpu"
            names = [name for name in path.split("/") if name not in ("", "..")]
            folders += [top.joinpath(*names[:depth]) for depth in range(1, len(names) + 1)]
    return folders


def _quota_of(folder: Path) -> float | None:
    """Quota over period, from `cpu.max` (version 2) or the two files of version 1."""
    parts = _read(folder / "cpu.max").split() or [
        _read(folder / "cpu.cfs_quota_us").strip(),
        _read(folder / "cpu.cfs_period_us").strip(),
    ]
    try:
        quota, period = (float(part) for part in parts)
    except ValueError:  # `max`, or no such file
        return None
    return quota / period if quota > 0 and period > 0 else None  # -1: no limit


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError):
        return ""
