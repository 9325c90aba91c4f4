"""Which patches of a picture a training step shows.

`uniform` and `window` are blind to what the patches show. `object` keeps the objects and cuts the table: what FlowCut
is meant to find is then what the model was trained on; it is kept as an ablation, as the first model was trained so.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from training.cache import N_PATCHES, ROWS

Owner = NDArray[np.int8]
"""[576] the object seen most in each patch, -1 for the table."""
Ids = NDArray[np.int64]

LEAST_SHARE = 0.1
WINDOW_SIDES = (10, 11, 12, 13, 14)
OBJECT_COUNTS, OBJECT_ODDS = (64, 112, 192, N_PATCHES), (0.3, 0.25, 0.2, 0.25)


def uniform_count(rng: np.random.Generator) -> int:
    """Half of the time all patches, else any number from a tenth of them."""
    return N_PATCHES if rng.random() < 0.5 else int(rng.integers(round(LEAST_SHARE * N_PATCHES), N_PATCHES + 1))


def uniform(rng: np.random.Generator, count: int, owner: Owner) -> Ids:
    """Any so many patches."""
    return np.sort(rng.permutation(N_PATCHES)[:count])


def window_count(rng: np.random.Generator) -> int:
    """The patches of a square, at most a third of the picture."""
    return int(rng.choice(WINDOW_SIDES)) ** 2


def window(rng: np.random.Generator, count: int, owner: Owner) -> Ids:
    """A square anywhere in the picture."""
    side = round(count**0.5)
    top, left = rng.integers(ROWS - side + 1, size=2)
    return (np.arange(top, top + side)[:, None] * ROWS + np.arange(left, left + side)).ravel()


def grid_count(rng: np.random.Generator) -> int:
    """Every second row and column."""
    return (ROWS // 2) ** 2


def grid(rng: np.random.Generator, count: int, owner: Owner) -> Ids:
    """Every second row and column, from a random one of the first two on."""
    top, left = rng.integers(2, size=2)
    return (np.arange(top, ROWS, 2)[:, None] * ROWS + np.arange(left, ROWS, 2)).ravel()


def by_object_count(rng: np.random.Generator) -> int:
    """A quarter of the time all patches."""
    return int(rng.choice(OBJECT_COUNTS, p=OBJECT_ODDS))


def by_object(rng: np.random.Generator, count: int, owner: Owner) -> Ids:
    """Objects first (up to four fifths of the places), table for the rest."""
    order = rng.random(len(owner)) + (owner < 0)
    objects = np.argsort(order)[: min(int((owner >= 0).sum()), count * 4 // 5)]
    table = rng.permutation(np.flatnonzero(owner < 0))[: count - len(objects)]
    return np.sort(np.concatenate((objects, table)))


def all_count(rng: np.random.Generator) -> int:
    """Whole pictures."""
    return N_PATCHES


DROPPINGS: dict[str, tuple[Callable[[np.random.Generator], int], Callable[[np.random.Generator, int, Owner], Ids]]] = {
    "uniform": (uniform_count, uniform),
    "window": (window_count, window),
    "grid": (grid_count, grid),
    "object": (by_object_count, by_object),
    "none": (all_count, uniform),
}
"""By name: how many patches the next batch shows, and which of one picture."""
