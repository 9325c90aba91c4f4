"""Objects without pixels: what questions and the first language stage need, at no drawing cost."""

from __future__ import annotations

import numpy as np

from flowcut_lens.scenes.world import CHARACTERS, COLOURS, SHAPES, SIZES, Placement, SceneObject, sample_placements

_NO_MASK = np.zeros((0, 0), bool)


def _in_reading_order(objects: list[SceneObject]) -> list[SceneObject]:
    return sorted(objects, key=lambda thing: (thing.row, thing.centre_x))


def _from_placement(placement: Placement) -> SceneObject:
    return SceneObject(
        placement.shape,
        placement.colour,
        placement.size,
        placement.character,
        placement.centre_x,
        placement.centre_y,
        (0, 0, 0, 0),
        _NO_MASK,
    )


def random_objects(rng: np.random.Generator) -> list[SceneObject]:
    """The objects of a random scene, not checked for how much one hides another."""
    return _in_reading_order([_from_placement(placement) for placement in sample_placements(rng)])


def from_table(table: np.ndarray) -> list[SceneObject]:
    """The objects of one row block of a shard ([6, 6]; training.cache.OBJECT_FIELDS), in the order they stand there."""
    found = []
    for shape, colour, size, character, x, y in table[np.isfinite(table[:, 0])]:
        found.append(
            SceneObject(
                SHAPES[int(shape)],
                COLOURS[int(colour)],
                SIZES[int(size)],
                CHARACTERS[int(character)] if character >= 0 else None,
                float(x),
                float(y),
                (0, 0, 0, 0),
                _NO_MASK,
            )
        )
    return found
