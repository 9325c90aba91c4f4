"""Scenes on disk, in the layout the trainer reads: patches of 14 x 14 pixels and what each of them shows.

Drawing a scene costs 20 to 40 ms and a training step needs hundreds, so scenes are drawn once into shards.
Table tops are shared by many scenes (mirrored and turned), which the held-out scenes never are: those come from
`scenes.draw`.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from flowcut_lens.scenes.backgrounds import background
from flowcut_lens.scenes.render import compose
from flowcut_lens.scenes.world import (
    BAR,
    CHARACTERS,
    CHART,
    COLOURS,
    MOST_OBJECTS,
    SHAPES,
    SIDE,
    SIZES,
    WORDS,
    WORLD,
    Scene,
    SceneMix,
)

PATCH = 14
ROWS = SIDE // PATCH
N_PATCHES = ROWS * ROWS
MAX_OBJECTS = MOST_OBJECTS
"""Rows of an object table; a chart's bars are objects too."""
SHARD_SCENES = 1000
TRAIN_SEED = 1_000_000_000
"""Training seeds start here; held-out scenes have seeds below it."""

FORMS = (*SHAPES, CHART, BAR)
TEXTS = (*CHARACTERS, *WORDS)
FIELD_VALUES: dict[str, tuple[str, ...]] = {
    "shape": FORMS,
    "colour": COLOURS,
    "size": SIZES,
    "text": TEXTS,
    "small_print": WORDS,
}
"""What the first columns of an object table may say."""
OBJECT_FIELDS = (*FIELD_VALUES, "centre_x", "centre_y")
PLACE = slice(len(FIELD_VALUES), len(OBJECT_FIELDS))
"""The columns of the centre."""

MIXES = {
    "world": WORLD,
    "crowded": SceneMix(extra_cards=0.3, words=0.5, small_print=0.6, charts=0.3, crowded=0.8),
}
"""Scenes as they are drawn everywhere, and scenes with more to see in every window, for the tower."""


@dataclass(frozen=True)
class Shard:
    """A block of scenes, memory-mapped."""

    patches: NDArray[np.uint8]
    """[scenes, 576, 588] pixels of each patch, row-major (row, column, channel)."""
    owner: NDArray[np.int8]
    """[scenes, 576] index of the object seen most in the patch; -1 where objects cover less than a tenth of it."""
    objects: NDArray[np.float32]
    """[scenes, 11, 7] OBJECT_FIELDS as class numbers or pixels; NaN where no object is, -1 where nothing is said."""


def to_patches(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """[336, 336, 3] -> [576, 588]."""
    grid = image.reshape(ROWS, PATCH, ROWS, PATCH, 3).transpose(0, 2, 1, 3, 4)
    return grid.reshape(N_PATCHES, PATCH * PATCH * 3)


def owners(scene: Scene, least: float = 0.1) -> NDArray[np.int8]:
    """[576] index of the object that covers most of each patch; -1 where none covers more than `least` of it."""
    masks = np.stack([thing.mask for thing in scene.objects])
    share = masks.reshape(len(masks), ROWS, PATCH, ROWS, PATCH).mean(axis=(2, 4)).reshape(len(masks), N_PATCHES)
    return np.where(share.max(axis=0) > least, share.argmax(axis=0), -1).astype(np.int8)


def object_table(scene: Scene) -> NDArray[np.float32]:
    """[11, 7] attributes of each object as numbers, NaN rows for objects that are not there."""
    table = np.full((MAX_OBJECTS, len(OBJECT_FIELDS)), np.nan, np.float32)
    for row, thing in enumerate(scene.objects):
        said = [getattr(thing, name) for name in FIELD_VALUES]
        numbers = [
            -1 if value is None else FIELD_VALUES[name].index(value)
            for name, value in zip(FIELD_VALUES, said, strict=True)
        ]
        table[row] = (*numbers, thing.centre_x, thing.centre_y)
    return table


def write_shard(
    folder: Path, number: int, mix: SceneMix = WORLD, n_scenes: int = SHARD_SCENES, table_tops: int = 60
) -> None:
    """Draw one shard. An unfinished one is never seen: the folder gets its name when all is written."""
    rng = np.random.default_rng(TRAIN_SEED + number)
    tops = [background(rng) for _ in range(table_tops)]
    patches = np.empty((n_scenes, N_PATCHES, PATCH * PATCH * 3), np.uint8)
    owner = np.empty((n_scenes, N_PATCHES), np.int8)
    objects = np.empty((n_scenes, MAX_OBJECTS, len(OBJECT_FIELDS)), np.float32)
    for index in range(n_scenes):
        top = np.rot90(tops[int(rng.integers(table_tops))], int(rng.integers(4)))
        scene = compose(number * n_scenes + index, top[:, :: rng.choice((-1, 1))].copy(), rng, mix)
        patches[index], owner[index], objects[index] = (
            to_patches(np.asarray(scene.image)),
            owners(scene),
            object_table(scene),
        )
    partial = folder / f"partial-{number:04d}"
    partial.mkdir(parents=True, exist_ok=True)
    for name, array in (("patches", patches), ("owner", owner), ("objects", objects)):
        np.save(partial / f"{name}.npy", array)
    partial.rename(folder / f"shard-{number:04d}")


def shards(folder: Path) -> list[Shard]:
    """Every finished shard, memory-mapped."""
    found = sorted(folder.glob("shard-*"))
    return [
        Shard(*(np.load(path / f"{name}.npy", mmap_mode="r") for name in ("patches", "owner", "objects")))
        for path in found
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("training/cache"), help="a folder for each mix lies in it")
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--shards", type=int, default=16)
    parser.add_argument("--mix", choices=sorted(MIXES), default="world", help="what the scenes are made of")
    arguments = parser.parse_args()
    for number in range(arguments.first, arguments.first + arguments.shards):
        folder = arguments.folder / arguments.mix
        if not (folder / f"shard-{number:04d}").exists():
            write_shard(folder, number, MIXES[arguments.mix])
            print(json.dumps({"shard": number}), flush=True)


if __name__ == "__main__":
    main()
