"""What of a published model is on this machine already: in the Hugging Face hub's cache. Needs no torch, no network."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from huggingface_hub import constants

WANTED_FILES = ("*.json", "*.safetensors", "*.jinja", "*.model", "*.txt")
"""What is fetched of a model's files."""
INCOMPLETE = ".incomplete"
"""Ends the name of a file of which only the start is here, as the hub's own clients call it."""
_INDEX = "model.safetensors.index.json"


@dataclass(frozen=True)
class Cached:
    """What is here of one model."""

    complete: bool
    """Whether it can be loaded without a network."""
    bytes: int
    """Of all its files that are here, parts of files among them."""


def cache_folder() -> Path:
    """The hub's cache, as HF_HUB_CACHE or HF_HOME say; it may not exist yet."""
    return Path(constants.HF_HUB_CACHE).expanduser()


def model_folder(name: str) -> Path:
    """Where the cache keeps a model."""
    return cache_folder() / f"models--{name.replace('/', '--')}"


def cached(name: str) -> Cached:
    """What is here of the model of this id."""
    return Cached(complete_snapshot(name) is not None, sum(_sizes(model_folder(name))))


def partial_bytes(name: str) -> int:
    """Bytes of files whose start is here: a download that was stopped goes on from there."""
    return sum(_size(file) for file in (model_folder(name) / "blobs").glob(f"*{INCOMPLETE}"))


def numbers_in(folder: Path) -> int:
    """How many numbers a checkpoint's weights are, from the headers of its safetensors files.

    Raises:
        ValueError: a file is broken.
    """
    return sum(_numbers(file) for file in folder.glob("*.safetensors"))


def _numbers(file: Path) -> int:
    """The header is JSON, after its length in 8 bytes: of each tensor its shape."""
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        if length > file.stat().st_size:
            raise ValueError(f"{file} is broken")
        header = json.loads(opened.read(length))
    return sum(math.prod(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__")


def wanted(file: str) -> bool:
    """Whether a file of a repository is fetched."""
    return any(fnmatch(file, pattern) for pattern in WANTED_FILES)


def complete_snapshot(name: str) -> Path | None:
    """The newest snapshot, if it has a configuration, every file of weights, and what a processor is made from."""
    folder = model_folder(name)
    try:
        snapshot = folder / "snapshots" / (folder / "refs" / constants.DEFAULT_REVISION).read_text().strip()
        here = {name for name in os.listdir(snapshot) if (snapshot / name).is_file()}
        listed = json.loads((snapshot / _INDEX).read_text())["weight_map"].values() if _INDEX in here else None
    except (OSError, ValueError, KeyError, AttributeError):
        return None
    weights = set(listed) if listed is not None else {name for name in here if name.endswith(".safetensors")}
    processor = here & {"preprocessor_config.json", "processor_config.json"}
    whole = bool(weights and processor) and weights <= here and "config.json" in here
    return snapshot if whole and _all_listed(folder, snapshot) else None


def _all_listed(folder: Path, snapshot: Path) -> bool:
    """Whether all wanted files of the hub's list are here, where that list was kept; True where it was not."""
    try:
        listed = json.loads((folder / "trees" / f"{snapshot.name}.json").read_text())["files"]
    except (OSError, ValueError, KeyError):
        return True
    return all((snapshot / file).is_file() for file in listed if wanted(file))


def _sizes(folder: Path) -> Iterable[int]:
    """Of all files, each once: a snapshot's are links to blobs, or, where a system has no links, files themselves."""
    for place in ("blobs", "snapshots"):
        yield from (_size(file) for file in (folder / place).rglob("*") if file.is_file() and not file.is_symlink())


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:  # it was moved or taken away meanwhile
        return 0
