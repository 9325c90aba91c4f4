"""Objects without pixels: what questions and the first language stage need, at no drawing cost."""

from __future__ import annotations

import numpy as np

from flowcut_lens.scenes.printing import shown_bars
from flowcut_lens.scenes.world import WORLD, Placement, SceneObject, reading_order, sample_placements
from training.cache import FIELD_VALUES, PLACE

_NO_MASK = np.zeros((0, 0), bool)


def _from_placement(placement: Placement) -> SceneObject:
    return SceneObject(
        placement.shape,
        placement.colour,
        placement.size,
        placement.text,
        placement.centre_x,
        placement.centre_y,
        (0, 0, 0, 0),
        _NO_MASK,
        placement.small_print,
    )


def random_objects(rng: np.random.Generator) -> list[SceneObject]:
    """The objects of a random scene in reading order, not checked for how much one hides another; bars come last."""
    laid = sample_placements(rng, WORLD)
    parts = [(placement, *(bar for bar, _ in shown_bars(placement))) for placement in laid]
    objects = [_from_placement(one) for group in parts for one in group]
    return list(reading_order(objects))


def from_table(table: np.ndarray) -> list[SceneObject]:
    """The objects of one scene of a shard ([11, 7]; training.cache.OBJECT_FIELDS), in the order they stand there."""
    found = []
    for row in table[np.isfinite(table[:, 0])]:
        numbers = zip(FIELD_VALUES.values(), row[: PLACE.start], strict=True)
        shape, colour, size, text, small_print = (values[int(one)] if one >= 0 else None for values, one in numbers)
        assert shape is not None
        assert colour is not None
        assert size is not None
        x, y = row[PLACE].tolist()
        found.append(SceneObject(shape, colour, size, text, x, y, (0, 0, 0, 0), _NO_MASK, small_print))
    return found
