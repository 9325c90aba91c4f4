"""What a scene is made of: its vocabulary, its objects, and the layout drawn from a seed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIDE = 336
"""Width and height of a picture, in pixels: the input size of CLIP-L/336, so that nothing is resized."""

SHAPES = ("circle", "square", "triangle", "star", "ring", "cross", "card")
CHART, BAR = "chart", "bar"
"""A bar chart on a sheet of its own, and the bars on it, which are objects too. No other object is called so."""
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "white")
SIZES = ("small", "large")
CHARACTERS = tuple("123456789ACEHKLTX")
"""What a card may carry. Letters that look like a digit or like one another (O, I, S, Z, B, ...) are left out."""
WORDS = (
    "ant", "bell", "bird", "boat", "bread", "cat", "chair", "clock", "cup", "dog", "door", "duck", "fish", "goat",
    "house", "key", "lamp", "leaf", "milk", "moon", "mouse", "owl", "pear", "plane", "rain", "salt", "sheep", "snow",
    "sun", "train", "tree", "wolf",
)  # fmt: skip
"""What may be printed on a large card, in capitals: large, or small below a character."""

PLACES = (
    ("top left", "top", "top right"),
    ("left", "center", "right"),
    ("bottom left", "bottom", "bottom right"),
)
"""Names of the nine equal regions of the picture, row by row."""

MOST_OBJECTS = 11
"""Of a crowded scene, its bars not counted; other scenes have at most 6."""

EXTENT = {"small": (42.0, 49.0), "large": (74.0, 86.0)}
"""Diameter in pixels of the circle an object fits in, by size."""

PLACE_MARGIN = 11.0
"""No centre lies closer than this (pixels) to a border between two regions: its place is never a matter of opinion."""

MIN_VISIBLE = {"card": 0.97, CHART: 0.97}
MIN_VISIBLE_DEFAULT = 0.72
"""Share of an object's pixels that must stay visible behind others; cards and charts must stay readable."""

CHART_EXTENT = (150.0, 170.0)
BAR_COLOURS = tuple(colour for colour in COLOURS if colour != "white")
"""The sheet of a chart is white."""


@dataclass(frozen=True)
class SceneMix:
    """How often what is harder to see comes up in drawn scenes; by default as it does in `draw`."""

    extra_cards: float = 0.0
    """Share of objects made cards on top of the usual one in seven."""
    words: float = 0.0
    """Share of large cards that carry a word instead of a character."""
    small_print: float = 0.0
    """Share of large cards with a character that carry a word in small print below it."""
    charts: float = 0.0
    """Share of scenes with a chart."""
    crowded: float = 0.0
    """Share of scenes with up to eleven objects; for training only."""


DRAWN = SceneMix()
"""What `draw` draws."""
WORLD = SceneMix(extra_cards=0.1, words=0.5, small_print=0.5, charts=0.2)
"""Words, small print and charts among the rest: what pruning is known to hurt most."""


@dataclass(frozen=True)
class Placement:
    """One object before it is drawn: attributes and pose."""

    shape: str
    colour: str
    size: str
    text: str | None
    centre_x: float
    """Pixels from the left edge."""
    centre_y: float
    """Pixels from the top edge."""
    extent: float
    """Diameter of the enclosing circle, in pixels."""
    rotation: float
    """Radians, clockwise on the screen."""
    small_print: str | None = None
    bars: tuple[tuple[str, int], ...] = ()
    """Of a chart, from the left: the colour of each bar, and its number, 1 to 9."""
    left_out: int | None = None
    """The bar that is not there, by its place among `bars`; the others stay where they are."""


@dataclass(frozen=True)
class SceneObject:
    """One object of a scene, with the pixels it is seen in."""

    shape: str
    colour: str
    size: str
    text: str | None
    """On a card its digit, letter or word; the number above a bar; None for every other shape."""
    centre_x: float
    centre_y: float
    box: tuple[int, int, int, int]
    """Left, top, right, bottom (exclusive) of the visible pixels."""
    mask: NDArray[np.bool_] = field(repr=False, compare=False)
    """[336, 336] visible pixels: those hidden behind other objects are left out."""
    small_print: str | None = None
    """The word in small print on a card."""

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
    """A picture and the truth about it. Objects are in reading order: by row of regions, then from left to right.

    The bars of a chart come last, from left to right.
    """

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


def reading_order(objects: Iterable[SceneObject]) -> tuple[SceneObject, ...]:
    """By row of regions, then from left to right; the bars of a chart last, from left to right."""
    bars_last = [
        (thing.shape == BAR, 0 if thing.shape == BAR else thing.row, thing.centre_x, thing) for thing in objects
    ]
    return tuple(thing for *_, thing in sorted(bars_last, key=lambda one: one[:3]))


def derived_seed(scene_seed: int, seed: int) -> int:
    """A seed for what is drawn at random about one scene: another one for every scene and seed, always the same.

    With a seed alone every scene would get the same draw, and a mean over scenes would hide how much hangs on it.
    """
    return int(np.random.SeedSequence((scene_seed, seed)).generate_state(1, np.uint64)[0])


def sample_placements(rng: np.random.Generator, mix: SceneMix = DRAWN) -> list[Placement]:
    """Draw 1 to 6 objects: attributes and poses, drawing order first to last (later ones lie on top)."""
    wanted = int(rng.choice(6, p=(0.08, 0.14, 0.2, 0.22, 0.2, 0.16))) + 1
    spacing = 1.08 if rng.random() < 0.6 else 0.78
    if _happens(rng, mix.crowded):
        wanted, spacing = int(rng.integers(7, MOST_OBJECTS + 1)), 0.85
    placements: list[Placement] = []
    if _happens(rng, mix.charts):
        wanted = min(wanted, 4)
        placements.append(_sample_chart(rng))
    # Large objects first: they are the hardest to fit.
    extents = sorted((_sample_size(rng) for _ in range(wanted)), key=lambda sized: -sized[1])
    for size, extent in extents:
        centre = _free_centre(rng, extent, placements, spacing)
        if centre is not None:
            placements.append(_sample_object(rng, size, extent, centre, placements, mix))
    order = rng.permutation(len(placements))
    return [placements[index] for index in order]


def _happens(rng: np.random.Generator, share: float) -> bool:
    """By chance; where it never does, no number is drawn, so that what is drawn later stays the same."""
    return share > 0 and bool(rng.random() < share)


def _sample_chart(rng: np.random.Generator) -> Placement:
    """A chart with two to four bars, no two alike in colour or number."""
    extent = float(rng.uniform(*CHART_EXTENT))
    centre = _free_centre(rng, extent, [], 1.0)
    assert centre is not None, "an empty picture has room for a chart"
    count = int(rng.integers(2, 5))
    colours, numbers = rng.permutation(len(BAR_COLOURS))[:count], rng.permutation(9)[:count] + 1
    bars = tuple((BAR_COLOURS[int(one)], int(number)) for one, number in zip(colours, numbers, strict=True))
    return Placement(CHART, "white", "large", None, *centre, extent, 0.0, bars=bars)


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
    mix: SceneMix,
) -> Placement:
    """Attributes at random; now and then one is shared with an earlier object, so that questions need both."""
    shape = SHAPES[int(rng.integers(len(SHAPES)))]
    colour = COLOURS[int(rng.integers(len(COLOURS)))]
    if others and rng.random() < 0.35:
        like = others[int(rng.integers(len(others)))]
        alike_in_shape = rng.random() < 0.5 and like.shape != CHART
        shape, colour = (like.shape, colour) if alike_in_shape else (shape, like.colour)
    if _happens(rng, mix.extra_cards):
        shape = "card"
    is_card = shape == "card"
    text = CHARACTERS[int(rng.integers(len(CHARACTERS)))] if is_card else None
    small_print = None
    if is_card and size == "large":
        if _happens(rng, mix.words):
            text = WORDS[int(rng.integers(len(WORDS)))]
        elif _happens(rng, mix.small_print):
            small_print = WORDS[int(rng.integers(len(WORDS)))]
    return Placement(
        shape=shape,
        colour=colour,
        size=size,
        text=text,
        centre_x=centre[0],
        centre_y=centre[1],
        # A card is as wide as another object of its size, and a little larger in all so that its character is readable.
        extent=extent * (1.18 if is_card else 1.0),
        rotation=float(rng.uniform(-0.26, 0.26) if is_card else rng.uniform(0, 2 * np.pi)),
        small_print=small_print,
    )
