"""The pictures and answers that are there before anyone has asked anything."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

import flowcut
from flowcut.media.picture import Picture, open_picture
from flowcut.records.store import load_run, picture_path
from flowcut_lens.app.jobs.orders import ARMS
from flowcut_lens.app.media.chosen import ChosenPicture
from flowcut_lens.app.media.comparison import Comparison
from flowcut_lens.scenes import Scene, draw, questions

SUGGESTIONS = 4
CHOSEN = "Chosen for answers that differ: they do not show how often pruning changes one."
"""What is said of the gallery's scenes, as `app/scripts/seeds.py` finds them."""
PHOTOGRAPH_QUESTIONS = ("Describe the picture.", "What is in the picture?", "What colours do you see?")
"""Suggested for pictures from outside, of which nothing is known."""
VIDEO_QUESTIONS = ("What happens in the video?", "Describe the video.", "What changes from start to end?")


@dataclass(frozen=True)
class Entry:
    """One scene of the gallery."""

    seed: int
    question: str
    """The question that makes it interesting."""
    kind: str
    """Its kind, one of `scenes.KINDS`."""
    note: str
    """What it shows, a few words."""
    stored: bool = False
    """Whether its answers are stored, so that they appear without a model."""


def assets_folder() -> Path:
    """`assets/` of a checkout, or what became of it inside an installed package."""
    checkout = Path(__file__).resolve().parents[2] / "assets"
    return checkout if checkout.is_dir() else Path(flowcut.__file__).resolve().parent / "assets"


@cache
def entries() -> tuple[Entry, ...]:
    """The gallery, in the order of the page."""
    listed = json.loads((assets_folder() / "gallery.json").read_text(encoding="utf-8"))
    return tuple(Entry(**fields) for fields in listed)


@lru_cache(maxsize=128)
def scene(seed: int) -> Scene:
    """A drawn scene with what is truly in it."""
    return draw(seed)


def drawn_picture(seed: int) -> ChosenPicture:
    """A drawn scene as a picture that can be asked about."""
    return ChosenPicture(Picture(scene(seed).image), f"drawn scene {seed}", seed)


def suggested_questions(seed: int | None) -> list[str]:
    """A few questions worth asking, the gallery's own first, each of another kind."""
    if seed is None:
        return list(PHOTOGRAPH_QUESTIONS)
    return list(_scene_questions(seed))


@lru_cache(maxsize=128)
def _scene_questions(seed: int) -> tuple[str, ...]:
    by_kind = {entry.kind: entry.question for entry in entries() if entry.seed == seed}
    for question in questions(scene(seed), seed=seed):
        by_kind.setdefault(question.kind, question.text)
    return tuple(by_kind.values())[:SUGGESTIONS]


def suggested_for(picture: ChosenPicture) -> list[str]:
    """A few questions worth asking about a picture or video."""
    return suggested_questions(picture.seed) if picture.video is None else list(VIDEO_QUESTIONS)


def examples_folder(seed: int) -> Path:
    """Where the stored answers about a scene lie, if there are any: one folder for each arm, one run in each."""
    return assets_folder() / "examples" / f"scene-{seed}"


@cache
def stored_example(seed: int) -> Comparison | None:
    """The stored answers about a scene of the gallery; None if it has none. Needs no model."""
    folders = [_only_run(examples_folder(seed) / arm) for arm in ARMS]
    if None in folders:
        return None
    full, cut, control = (load_run(folder) for folder in folders if folder is not None)
    path = folders[0] and picture_path(folders[0])
    picture = open_picture(path) if path else Picture(scene(seed).image)
    return Comparison(ChosenPicture(picture, f"drawn scene {seed}", seed), full, cut, control, stored=True)


def _only_run(folder: Path) -> Path | None:
    return next((path.parent for path in sorted(folder.glob("*/run.json"))), None)
