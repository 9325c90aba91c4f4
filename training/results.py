"""Results that grow scene by scene: a line each as soon as it is measured, so that a run that was broken off goes on.

While it grows a file is plain JSON lines: what it was measured with, then one line a scene. What is shipped is packed
from it: the same first line, then one line for each single result, compressed. `pandas.read_json(path, lines=True)`
reads it, and so does `read_packed`.
"""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable, Iterable
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

Facts = dict[str, Any]
"""What every line was measured with: the weights, the questions, the versions."""
Line = dict[str, Any]


def measure(
    path: Path, facts: Facts, scenes: list[Any], work: Callable[[Any], Line], prepare: Callable[[], None], workers: int
) -> list[Line]:
    """The lines of all scenes, those that were not in the file yet appended to it one by one.

    Args:
        scenes: tuples that begin with the scene's seed.
        work: a scene's line, which must hold its seed as "scene"; run in a process of its own.
        prepare: called once in each of them.
        workers: how many of them, each on one thread.

    Raises:
        SystemExit: the file was begun with other facts.
    """
    done = begun(path, facts)
    missing = [scene for scene in scenes if scene[0] not in done]
    if missing:
        with get_context("spawn").Pool(min(workers, len(missing)), _prepare, (prepare,)) as pool:
            for number, line in enumerate(pool.imap(work, missing), 1):  # in their order, also when broken off
                with path.open("a") as file:
                    file.write(_compact(line) + "\n")
                if number % 50 == 0 or number == len(missing):
                    print(f"{number} of {len(missing)} scenes", flush=True)
            pool.close()
            pool.join()
    wanted = {scene[0] for scene in scenes}
    found = [json.loads(line) for line in path.read_text().splitlines()[1:]]
    return sorted((line for line in found if line["scene"] in wanted), key=lambda line: int(line["scene"]))


def _prepare(prepare: Callable[[], None]) -> None:
    """One thread a process: two on a core wait for each other at every layer."""
    torch.set_num_threads(1)
    prepare()


def begun(path: Path, facts: Facts, scene: str = "scene") -> set[int]:
    """Seeds of the scenes that are in a file already, under this name; a new file gets the facts as its first line.

    Raises:
        SystemExit: the file was begun with other facts.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        path.write_text(_compact(facts) + "\n")
    whole_lines = path.read_text().rpartition("\n")[0]  # what was broken off in the middle is measured again
    path.write_text(whole_lines + "\n")
    first, *lines = whole_lines.splitlines()
    if json.loads(first) != facts:
        raise SystemExit(f"{path} was measured with other settings or another model: move it away to begin anew.")
    return {int(json.loads(line)[scene]) for line in lines}


def pack(path: Path, facts: Facts, rows: Iterable[Line]) -> None:
    """Write a compressed file, whole or not at all; the same rows give the same bytes."""
    partial = path.with_name(path.name + ".partial")
    text = "".join(_compact(one) + "\n" for one in (facts, *rows))
    partial.write_bytes(gzip.compress(text.encode(), compresslevel=9, mtime=0))
    os.replace(partial, path)


def read_packed(path: Path) -> tuple[Facts, list[Line]]:
    """What a compressed file was measured with, and its lines."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        first, *lines = (json.loads(line) for line in file)
    return first, lines


def _compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))
