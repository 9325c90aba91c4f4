"""What a scene is made of: its vocabulary, its objects, and the layout drawn from a seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIDE = 336
"""Width and height of a picture, in pixels: the input size of CLIP-L/336, so that nothing is resized."""

SHAPES = ("circle", "square", "triangle", "star", "ring", "cross", "card")
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "white")
SIZES = ("small", "large")
CHARACTERS = tuple("123456789ACEHKLTX")
"""What a card may carry. Letters that look like a digit or like one another (O, I, S, Z, B, ...) are left out."""

PLACES = (
    ("top left", "top", "top right"),
    ("left", "center", "right"),
    ("bottom left", "bottom", "bottom right"),
)
"""Names of the nine equal regions of the picture, row by row."""

EXTENT = {"small": (42.0, 49.0), "large": (74.0, 86.0)}
"""Diameter in pixels of the circle an object fits in, by size."""

PLACE_MARGIN = 11.0
"""No centre lies closer than this (pixels) to a border between two regions: its place is never a matter of opinion."""

MIN_VISIBLE = {"card": 0.97}
MIN_VISIBLE_DEFAULT = 0.72
"""Share of an object's pixels that must stay visible behind others; a card must stay readable."""


@dataclass(frozen=True)
class Placement:
    """One object before it is drawn: attributes and pose."""

    shape: str
    colour: str
    size: str
    character: str | None
    centre_x: float
    """Pixels from the left edge."""
    centre_y: float
    """Pixels from the top edge."""
    extent: float
    """Diameter of the enclosing circle, in pixels."""
    rotation: float
    """Radians, clockwise on the screen."""


@dataclass(frozen=True)
class SceneObject:
    """One object of a scene, with the pixels it is seen in."""

    shape: str
    colour: str
    size: str
    character: str | None
    """The digit or letter on a card; None for every other shape."""
    centre_x: float
    centre_y: float
    box: tuple[int, int, int, int]
    """Left, top, right, bottom (exclusive) of the visible pixels."""
    mask: NDArray[np.bool_] = field(repr=False, compare=False)
    """[336, 336] visible pixels: those hidden behind other objects are left out."""

    @property
    def place(self) -> str:
        """Name of the region of the picture that holds the centre."""
        return PLACES[min(int(self.centre_y * 3 / SIDE), 2)][min(int(self.centre_x * 3 / SIDE), 2)]

    @property
    def row(self) -> int:
        """Row of the 3 x 3 regions, from the top."""
        return min(int(self.centre_y * 3 / SIDE), 2)


@dataclass(frozen=True)
class Scene:
    """A picture and the truth about it. Objects are in reading order: by row of regions, then from left to right."""

    seed: int
    image: Image.Image = field(repr=False, compare=False)
    objects: tuple[SceneObject, ...]

    def object_mask(self, object_ids: Sequence[int] | None = None) -> NDArray[np.bool_]:
        """[336, 336] visible pixels of the objects of these indices; of all objects where None."""
        chosen = range(len(self.objects)) if object_ids is None else object_ids
        union = np.zeros((SIDE, SIDE), bool)
        for index in chosen:
            union |= self.objects[index].mask
        return union

    def object_patches(
        self, patch: int = 14, coverage: float = 0.0, object_ids: Sequence[int] | None = None
    ) -> NDArray[np.bool_]:
        """[rows * cols] patches of which more than `coverage` of the pixels show one of the objects (None: of all)."""
        rows = SIDE // patch
        share = self.object_mask(object_ids).reshape(rows, patch, rows, patch).mean(axis=(1, 3))
        return (share > coverage).reshape(-1)


def derived_seed(scene_seed: int, seed: int) -> int:
    """A seed for what is drawn at random about one scene: another one for every scene and seed, always the same.

    With a seed alone every scene would get the same draw, and a mean over scenes would hide how much hangs on it.
    """
    return int(np.random.SeedSequence((scene_seed, seed)).generate_state(1, np.uint64)[0])


def sample_placements(rng: np.random.Generator, extra_cards: float = 0.0) -> list[Placement]:
    """Draw 1 to 6 objects: attributes and poses, drawing order first to last (later ones lie on top).

    `extra_cards` is the share of objects made cards on top of the usual one in seven; training uses it to read more.
    """
    wanted = int(rng.choice(6, p=(0.08, 0.14, 0.2, 0.22, 0.2, 0.16))) + 1
    spacing = 1.08 if rng.random() < 0.6 else 0.78
    placements: list[Placement] = []
    # Large objects first: they are the hardest to fit.
    extents = sorted((_sample_size(rng) for _ in range(wanted)), key=lambda sized: -sized[1])
    for size, extent in extents:
        centre = _free_centre(rng, extent, placements, spacing)
        if centre is not None:
            placements.append(_sample_object(rng, size, extent, centre, placements, extra_cards))
    order = rng.permutation(len(placements))
    return [placements[index] for index in order]


def _sample_size(rng: np.random.Generator) -> tuple[str, float]:
    size = SIZES[int(rng.integers(2))]
    return size, float(rng.uniform(*EXTENT[size]))


def _free_centre(
    rng: np.random.Generator, extent: float, others: list[Placement], spacing: float
) -> tuple[float, float] | None:
    """A centre inside the picture, off the region borders and far enough from the others; None if 60 tries fail."""
    margin = extent / 2 + 5
    for _ in range(60):
        x, y = rng.uniform(margin, SIDE - margin, size=2)
        near_border = min(abs(value - SIDE * third / 3) for value in (x, y) for third in (1, 2))
        far = all(
            np.hypot(x - other.centre_x, y - other.centre_y) > spacing * (extent + other.extent) / 2 for other in others
        )
        if near_border >= PLACE_MARGIN and far:
            return float(x), float(y)
    return None


def _sample_object(
    rng: np.random.Generator,
    size: str,
    extent: float,
    centre: tuple[float, float],
    others: list[Placement],
    extra_cards: float,
) -> Placement:
    """Attributes at random; now and then one is shared with an earlier object, so that questions need both."""
    shape = SHAPES[int(rng.integers(len(SHAPES)))]
    colour = COLOURS[int(rng.integers(len(COLOURS)))]
    if others and rng.random() < 0.35:
        twin = others[int(rng.integers(len(others)))]
        shape, colour = (twin.shape, colour) if rng.random() < 0.5 else (shape, twin.colour)
    if extra_cards and rng.random() < extra_cards:
        shape = "card"
    is_card = shape == "card"
    return Placement(
        shape=shape,
        colour=colour,
        size=size,
        character=CHARACTERS[int(rng.integers(len(CHARACTERS)))] if is_card else None,
        centre_x=centre[0],
        centre_y=centre[1],
        # A card is as wide as another object of its size, and a little larger in all so that its character is readable.
        extent=extent * (1.18 if is_card else 1.0),
        rotation=float(rng.uniform(-0.26, 0.26) if is_card else rng.uniform(0, 2 * np.pi)),
    )
