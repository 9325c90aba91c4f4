"""Everything that can be asked about a scene, with the answer that is true of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Protocol

from flowcut_lens.scenes import phrasings
from flowcut_lens.scenes.phrasings import article, name_of, plural
from flowcut_lens.scenes.world import BAR, CHART, COLOURS, SHAPES, SIZES

LEAST_STEP = 36.0
"""Two objects count as left/right or above/below each other only if their centres are so many pixels apart."""


class Thing(Protocol):
    """What a question needs to know of an object."""

    @property
    def shape(self) -> str: ...
    @property
    def colour(self) -> str: ...
    @property
    def size(self) -> str: ...
    @property
    def text(self) -> str | None: ...
    @property
    def small_print(self) -> str | None: ...
    @property
    def centre_x(self) -> float: ...
    @property
    def centre_y(self) -> float: ...
    @property
    def place(self) -> str: ...


@dataclass(frozen=True)
class Fact:
    """One thing that can be asked: the words for the phrasings' blanks, the answer, and the class it is balanced by."""

    phrasings: tuple[str, ...]
    words: dict[str, str]
    answer: str
    object_ids: tuple[int, ...]
    balance: str
    means: tuple[tuple[str, tuple[int, ...]], ...] = ()
    """Blanks that name objects, and the objects each name means."""


def _matching(
    objects: Sequence[Thing], size: str | None = None, colour: str | None = None, shape: str | None = None
) -> tuple[int, ...]:
    """Indices of the objects of these attributes; the bars of a chart only where bars are asked for."""
    return tuple(
        index
        for index, thing in enumerate(objects)
        if (thing.shape != BAR or shape == BAR)
        and (size is None or thing.size == size)
        and (colour is None or thing.colour == colour)
        and (shape is None or thing.shape == shape)
    )


def _laid(objects: Sequence[Thing]) -> list[tuple[int, Thing]]:
    """What lies on the table, with its index: everything but the bars of a chart."""
    return [(index, thing) for index, thing in enumerate(objects) if thing.shape != BAR]


def _names_of(objects: Sequence[Thing], index: int, leave_out: str = "") -> list[str]:
    """Every name that means this object alone; `leave_out` (an attribute) is not given away."""
    thing, found = objects[index], []
    for use_size in (False, True):
        for use_colour in (False, True):
            for use_shape in (False, True):
                used = {"size": use_size, "colour": use_colour, "shape": use_shape}
                if used.get(leave_out) or not (use_colour or use_shape):
                    continue
                attributes = {name: getattr(thing, name) if on else None for name, on in used.items()}
                if _matching(objects, **attributes) == (index,):
                    found.append(name_of(**attributes))
    return found


def _existence(objects: Sequence[Thing]) -> Iterator[Fact]:
    for colour in (None, *COLOURS):
        for shape in (None, *SHAPES):
            if colour is None and shape is None:
                continue
            ids = _matching(objects, colour=colour, shape=shape)
            near = bool(_matching(objects, colour=colour)) and bool(_matching(objects, shape=shape))
            answer = "yes" if ids else "no"
            noun = name_of(None, colour, shape)
            # A "no" is worth asking most where colour and shape are both there, only not together.
            balance = answer + str(near and not ids)
            yield Fact(phrasings.EXISTENCE, {"an_a": article(noun)}, answer, ids, balance, (("an_a", ids),))


def _attribute(
    wordings: tuple[str, ...], leave_out: str, read: Callable[[Thing], str | None]
) -> Callable[[Sequence[Thing]], Iterator[Fact]]:
    """A generator of facts "what is this attribute of the object that is called so"."""

    def generate(objects: Sequence[Thing]) -> Iterator[Fact]:
        for index, thing in _laid(objects):
            answer = read(thing)
            if answer is not None:
                for name in _names_of(objects, index, leave_out):
                    yield Fact(wordings, {"a": name}, answer, (index,), answer, (("a", (index,)),))

    return generate


def _counting(objects: Sequence[Thing]) -> Iterator[Fact]:
    kinds: list[tuple[str | None, str | None, str | None]] = [(None, None, shape) for shape in SHAPES]
    kinds += [(None, colour, None) for colour in COLOURS]
    kinds += [(size, None, None) for size in SIZES] + [(None, None, None)]
    kinds += [
        (None, colour, shape) for colour in COLOURS for shape in SHAPES if _matching(objects, None, colour, shape)
    ]
    for size, colour, shape in kinds:
        ids = _matching(objects, size, colour, shape)
        noun = name_of(size, colour, shape)
        nouns = (noun, noun.replace("thing", "object")) if shape is None else (noun,)
        for one in nouns:
            answer = str(len(ids))
            yield Fact(phrasings.COUNTING, {"many_a": plural(one)}, answer, ids, answer, (("many_a", ids),))


def _holds(relation: str, one: Thing, other: Thing) -> bool | None:
    """Whether `one` stands in this relation to `other`; None if they are too close that way to say."""
    step = other.centre_x - one.centre_x if relation in ("left", "right") else other.centre_y - one.centre_y
    if abs(step) < LEAST_STEP:
        return None
    return (step > 0) == (relation in ("left", "above"))


def _pairs(objects: Sequence[Thing]) -> Iterator[tuple[int, int, str, str]]:
    laid = [index for index, _ in _laid(objects)]
    names = {index: _names_of(objects, index) for index in laid}
    for one, other in permutations(laid, 2):
        for first in names[one][:3]:
            for second in names[other][:3]:
                yield one, other, first, second


def _relation(objects: Sequence[Thing]) -> Iterator[Fact]:
    for one, other, first, second in _pairs(objects):
        for relation, spoken in phrasings.RELATIONS.items():
            holds = _holds(relation, objects[one], objects[other])
            if holds is not None:
                answer = "yes" if holds else "no"
                for words in spoken:
                    blanks = {"a": first, "b": second, "relation": words}
                    yield Fact(
                        phrasings.RELATION, blanks, answer, (one, other), answer, (("a", (one,)), ("b", (other,)))
                    )


def _comparison(objects: Sequence[Thing]) -> Iterator[Fact]:
    for one, other, first, second in _pairs(objects):
        yield from _compared_sizes(objects, one, other, {"a": first, "b": second})
        yield from _compared_places(objects, one, other, {"a": first, "b": second})
    for attribute, options in (("shape", SHAPES), ("colour", COLOURS)):
        yield from _compared_counts(objects, attribute, options)


def _compared_sizes(objects: Sequence[Thing], one: int, other: int, names: dict[str, str]) -> Iterator[Fact]:
    if objects[one].size == objects[other].size:
        return
    larger, smaller = ("a", "b") if objects[one].size == "large" else ("b", "a")
    means = (("a", (one,)), ("b", (other,)))
    yield Fact(phrasings.LARGER, names, f"the {names[larger]}", (one, other), "larger", means)
    yield Fact(phrasings.SMALLER, names, f"the {names[smaller]}", (one, other), "smaller", means)


def _compared_places(objects: Sequence[Thing], one: int, other: int, names: dict[str, str]) -> Iterator[Fact]:
    means = (("a", (one,)), ("b", (other,)))
    for relation, side in phrasings.SIDES.items():
        holds = _holds(relation, objects[one], objects[other])
        if holds is not None:
            answer = f"the {names['a' if holds else 'b']}"
            yield Fact(phrasings.FURTHER, {**names, "side": side}, answer, (one, other), "further", means)


def _compared_counts(objects: Sequence[Thing], attribute: str, options: Sequence[str]) -> Iterator[Fact]:
    """Whether there are more objects of one colour (or shape) than of another."""
    for pair in permutations(options, 2):
        ids = [_matching(objects, **{attribute: word}) for word in pair]
        if not any(ids):
            continue
        answer = "yes" if len(ids[0]) > len(ids[1]) else "no"
        nouns = [plural(word if attribute == "shape" else f"{word} thing") for word in pair]
        counted = (("many_a", ids[0]), ("many_b", ids[1]))
        blanks = {"many_a": nouns[0], "many_b": nouns[1]}
        yield Fact(phrasings.MORE, blanks, answer, ids[0] + ids[1], "more " + answer, counted)


def _logic(objects: Sequence[Thing]) -> Iterator[Fact]:
    laid = [thing for _, thing in _laid(objects)]
    present = sorted({(thing.colour, thing.shape) for thing in laid})
    swapped = sorted({(a.colour, b.shape) for a, b in permutations(laid, 2)} - set(present))
    absent = [(colour, shape) for colour in COLOURS[::3] for shape in SHAPES[::3] if (colour, shape) not in present]
    pool = present + swapped + absent[:3]
    for (colour_a, shape_a), (colour_b, shape_b) in permutations(pool, 2):
        a, b = name_of(None, colour_a, shape_a), name_of(None, colour_b, shape_b)
        ids_a, ids_b = (
            _matching(objects, colour=colour_a, shape=shape_a),
            _matching(objects, colour=colour_b, shape=shape_b),
        )
        words = {"an_a": article(a), "an_b": article(b), "b": b}
        for wordings, holds, name in (
            (phrasings.AND, bool(ids_a and ids_b), "and"),
            (phrasings.OR, bool(ids_a or ids_b), "or"),
            (phrasings.BUT, bool(ids_a and not ids_b), "but"),
        ):
            answer = "yes" if holds else "no"
            means = (("an_a", ids_a), ("b", ids_b))
            yield Fact(wordings, words, answer, ids_a + ids_b, f"{name} {answer}", means)


def describe(objects: Sequence[Thing]) -> str:
    """The whole picture in one sentence, object by object in the order given (reading order in a scene)."""
    bars = sum(thing.shape == BAR for thing in objects)
    phrases = [_phrase(thing, bars) for _, thing in _laid(objects)]
    if len(phrases) == 1:
        return phrases[0] + "."
    return ", ".join(phrases[:-1]) + " and " + phrases[-1] + "."


def _phrase(thing: Thing, bars: int) -> str:
    preposition = {"center": "in the", "left": "on the", "right": "on the"}.get(thing.place, "at the")
    carries = f" with {_carried(thing.text)}" if thing.text else ""
    carries += f" above {thing.small_print}" if thing.small_print else ""
    carries += f" with {bars} bars" if thing.shape == CHART else ""
    return f"{article(name_of(thing.size, thing.colour, thing.shape))}{carries} {preposition} {thing.place}"


def _carried(text: str) -> str:
    """A word alone, a character behind its article."""
    return text if len(text) > 1 else f"{'an' if text in 'AEHLX8' else 'a'} {text}"


def _description(objects: Sequence[Thing]) -> Iterator[Fact]:
    yield Fact(phrasings.DESCRIBE, {}, describe(objects), tuple(range(len(objects))), "describe")


def _chart(objects: Sequence[Thing]) -> Iterator[Fact]:
    """What a chart says. Its bars have numbers that are all different."""
    bars = [index for index, thing in enumerate(objects) if thing.shape == BAR]
    if not bars:
        return
    by_height = sorted(bars, key=lambda index: int(objects[index].text or 0))
    for wordings, index in ((phrasings.HIGHEST_BAR, by_height[-1]), (phrasings.LOWEST_BAR, by_height[0])):
        yield Fact(wordings, {}, objects[index].colour, tuple(bars), "which")
    for index in bars:
        name = f"{objects[index].colour} {BAR}"
        yield Fact(phrasings.BAR, {"a": name}, objects[index].text or "", (index,), "number", (("a", (index,)),))
    yield Fact(phrasings.BARS, {}, str(len(bars)), tuple(bars), "how many")


GENERATORS: dict[str, Callable[[Sequence[Thing]], Iterator[Fact]]] = {
    "existence": _existence,
    "colour": _attribute(phrasings.COLOUR, "colour", lambda thing: None if thing.shape == CHART else thing.colour),
    "shape": _attribute(phrasings.SHAPE, "shape", lambda thing: thing.shape),
    "counting": _counting,
    "position": _attribute(phrasings.POSITION, "", lambda thing: thing.place),
    "relation": _relation,
    "size": _attribute(phrasings.SIZE, "size", lambda thing: None if thing.shape == CHART else thing.size),
    "comparison": _comparison,
    "reading": _attribute(phrasings.READING, "", lambda thing: thing.text),
    "logic": _logic,
    "describe": _description,
    "small print": _attribute(phrasings.SMALL_PRINT, "", lambda thing: thing.small_print),
    "chart": _chart,
}
