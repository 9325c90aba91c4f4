"""Questions about a scene whose answers are known, in many phrasings, and how an answer is marked."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Protocol

import numpy as np

from flowcut_lens.scenes.world import COLOURS, SHAPES, SIZES, Scene

KINDS = (
    "existence",
    "colour",
    "shape",
    "counting",
    "position",
    "relation",
    "size",
    "comparison",
    "reading",
    "logic",
    "describe",
)

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
    def character(self) -> str | None: ...
    @property
    def centre_x(self) -> float: ...
    @property
    def centre_y(self) -> float: ...
    @property
    def place(self) -> str: ...


@dataclass(frozen=True)
class Question:
    """A question, its whole answer, its kind, and the objects (indices into the scene) it is about."""

    text: str
    answer: str
    kind: str
    object_ids: tuple[int, ...]
    mentions: tuple[tuple[str, tuple[int, ...]], ...] = ()
    """The names of objects in the text, in order, and the objects each of them means."""


@dataclass(frozen=True)
class _Fact:
    """One thing that can be asked: the words for the phrasings' blanks, the answer, and the class it is balanced by."""

    phrasings: tuple[str, ...]
    words: dict[str, str]
    answer: str
    object_ids: tuple[int, ...]
    balance: str
    means: tuple[tuple[str, tuple[int, ...]], ...] = ()
    """Blanks that name objects, and the objects each name means."""

    def ask(self, phrasing: str, kind: str) -> Question:
        mentions = tuple((_without_article(self.words[blank]), ids) for blank, ids in self.means)
        return Question(phrasing.format(**self.words), self.answer, kind, self.object_ids, mentions)


_EXISTENCE = (
    "Is there {an_a} in the picture?",
    "Is there {an_a}?",
    "Do you see {an_a}?",
    "Can you see {an_a} here?",
    "Does the picture show {an_a}?",
    "Is {an_a} anywhere in the image?",
)
_COLOUR = (
    "What colour is the {a}?",
    "What color is the {a}?",
    "Which colour does the {a} have?",
    "Tell me the color of the {a}.",
    "The {a} is what colour?",
    "What is the colour of the {a}?",
)
_SHAPE = (
    "What shape is the {a}?",
    "Which shape does the {a} have?",
    "What is the shape of the {a}?",
    "Tell me the shape of the {a}.",
    "The {a} has what shape?",
)
_COUNTING = (
    "How many {many_a} are there?",
    "How many {many_a} are in the picture?",
    "How many {many_a} do you see?",
    "Count the {many_a}.",
    "What is the number of {many_a}?",
    "How many {many_a} can you count?",
)
_POSITION = (
    "Where is the {a}?",
    "Where in the picture is the {a}?",
    "In which part of the picture is the {a}?",
    "Where do you see the {a}?",
    "What is the position of the {a}?",
    "Tell me where the {a} is.",
)
_RELATION = (
    "Is the {a} {relation} the {b}?",
    "Does the {a} lie {relation} the {b}?",
    "Can you see the {a} {relation} the {b}?",
    "Would you say the {a} is {relation} the {b}?",
)
_SIZE = (
    "What size is the {a}?",
    "Is the {a} small or large?",
    "Is the {a} large or small?",
    "How big is the {a}?",
    "What is the size of the {a}?",
)
_LARGER = (
    "Which is larger, the {a} or the {b}?",
    "Which is bigger, the {a} or the {b}?",
    "What is larger: the {a} or the {b}?",
)
_SMALLER = ("Which is smaller, the {a} or the {b}?", "What is smaller: the {a} or the {b}?")
_FURTHER = ("Which is further {side}, the {a} or the {b}?", "What is further {side}: the {a} or the {b}?")
_MORE = (
    "Are there more {many_a} than {many_b}?",
    "Do you see more {many_a} than {many_b}?",
    "Are the {many_a} more than the {many_b}?",
)
_READING = (
    "What is written on the {a}?",
    "What does the {a} say?",
    "What is on the {a}?",
    "Which character is on the {a}?",
    "Read the {a}.",
    "What do you read on the {a}?",
)
_AND = (
    "Is there {an_a} and {an_b}?",
    "Are there both {an_a} and {an_b}?",
    "Do you see {an_a} and also {an_b}?",
)
_OR = ("Is there {an_a} or {an_b}?", "Do you see {an_a} or {an_b}?", "Is there either {an_a} or {an_b}?")
_BUT = ("Is there {an_a} but no {b}?", "Do you see {an_a} but no {b}?")
_DESCRIBE = (
    "Describe the picture.",
    "What is in the picture?",
    "What do you see?",
    "Describe the image.",
    "Describe what you see.",
    "List everything in the picture.",
    "What does the picture show?",
)

_PLURAL = {"cross": "crosses", "thing": "things", "object": "objects"}
_RELATIONS: dict[str, tuple[str, ...]] = {
    "left": ("left of", "to the left of"),
    "right": ("right of", "to the right of"),
    "above": ("above", "higher than"),
    "below": ("below", "lower than"),
}
_SIDES = {"left": "left", "right": "right", "above": "up", "below": "down"}


def _article(noun: str) -> str:
    return ("an " if noun[0] in "aeiou" else "a ") + noun


def _without_article(noun: str) -> str:
    return noun.removeprefix("a ").removeprefix("an ")


def _plural(noun: str) -> str:
    *front, last = noun.split()
    return " ".join((*front, _PLURAL.get(last, last + "s")))


def _name(size: str | None, colour: str | None, shape: str | None) -> str:
    return " ".join(word for word in (size, colour, shape or "thing") if word)


def _matching(
    objects: Sequence[Thing], size: str | None = None, colour: str | None = None, shape: str | None = None
) -> tuple[int, ...]:
    return tuple(
        index
        for index, thing in enumerate(objects)
        if (size is None or thing.size == size)
        and (colour is None or thing.colour == colour)
        and (shape is None or thing.shape == shape)
    )


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
                    found.append(_name(**attributes))
    return found


def _existence(objects: Sequence[Thing]) -> Iterator[_Fact]:
    for colour in (None, *COLOURS):
        for shape in (None, *SHAPES):
            if colour is None and shape is None:
                continue
            ids = _matching(objects, colour=colour, shape=shape)
            near = bool(_matching(objects, colour=colour)) and bool(_matching(objects, shape=shape))
            answer = "yes" if ids else "no"
            noun = _name(None, colour, shape)
            # A "no" is worth asking most where colour and shape are both there, only not together.
            balance = answer + str(near and not ids)
            yield _Fact(_EXISTENCE, {"an_a": _article(noun)}, answer, ids, balance, (("an_a", ids),))


def _attribute(
    phrasings: tuple[str, ...], leave_out: str, read: Callable[[Thing], str | None]
) -> Callable[[Sequence[Thing]], Iterator[_Fact]]:
    """A generator of facts "what is this attribute of the object that is called so"."""

    def generate(objects: Sequence[Thing]) -> Iterator[_Fact]:
        for index, thing in enumerate(objects):
            answer = read(thing)
            if answer is not None:
                for name in _names_of(objects, index, leave_out):
                    yield _Fact(phrasings, {"a": name}, answer, (index,), answer, (("a", (index,)),))

    return generate


def _counting(objects: Sequence[Thing]) -> Iterator[_Fact]:
    kinds: list[tuple[str | None, str | None, str | None]] = [(None, None, shape) for shape in SHAPES]
    kinds += [(None, colour, None) for colour in COLOURS]
    kinds += [(size, None, None) for size in SIZES] + [(None, None, None)]
    kinds += [
        (None, colour, shape) for colour in COLOURS for shape in SHAPES if _matching(objects, None, colour, shape)
    ]
    for size, colour, shape in kinds:
        ids = _matching(objects, size, colour, shape)
        noun = _name(size, colour, shape)
        nouns = (noun, noun.replace("thing", "object")) if shape is None else (noun,)
        for one in nouns:
            answer = str(len(ids))
            yield _Fact(_COUNTING, {"many_a": _plural(one)}, answer, ids, answer, (("many_a", ids),))


def _holds(relation: str, one: Thing, other: Thing) -> bool | None:
    """Whether `one` stands in this relation to `other`; None if they are too close that way to say."""
    step = other.centre_x - one.centre_x if relation in ("left", "right") else other.centre_y - one.centre_y
    if abs(step) < LEAST_STEP:
        return None
    return (step > 0) == (relation in ("left", "above"))


def _pairs(objects: Sequence[Thing]) -> Iterator[tuple[int, int, str, str]]:
    names = [_names_of(objects, index) for index in range(len(objects))]
    for one, other in permutations(range(len(objects)), 2):
        for first in names[one][:3]:
            for second in names[other][:3]:
                yield one, other, first, second


def _relation(objects: Sequence[Thing]) -> Iterator[_Fact]:
    for one, other, first, second in _pairs(objects):
        for relation, wordings in _RELATIONS.items():
            holds = _holds(relation, objects[one], objects[other])
            if holds is not None:
                answer = "yes" if holds else "no"
                for words in wordings:
                    blanks = {"a": first, "b": second, "relation": words}
                    yield _Fact(_RELATION, blanks, answer, (one, other), answer, (("a", (one,)), ("b", (other,))))


def _comparison(objects: Sequence[Thing]) -> Iterator[_Fact]:
    for one, other, first, second in _pairs(objects):
        a, b = objects[one], objects[other]
        means = (("a", (one,)), ("b", (other,)))
        if a.size != b.size:
            larger, smaller = (first, second) if a.size == "large" else (second, first)
            yield _Fact(_LARGER, {"a": first, "b": second}, f"the {larger}", (one, other), "larger", means)
            yield _Fact(_SMALLER, {"a": first, "b": second}, f"the {smaller}", (one, other), "smaller", means)
        for relation, side in _SIDES.items():
            holds = _holds(relation, a, b)
            if holds is not None:
                answer = f"the {first if holds else second}"
                yield _Fact(_FURTHER, {"a": first, "b": second, "side": side}, answer, (one, other), "further", means)
    for options, attribute in ((SHAPES, "shape"), (COLOURS, "colour")):
        counts = Counter(getattr(thing, attribute) for thing in objects)
        for left, right in permutations(options, 2):
            if counts[left] or counts[right]:
                answer = "yes" if counts[left] > counts[right] else "no"
                nouns = [
                    _plural(_name(None, *((None, w) if attribute == "shape" else (w, None)))) for w in (left, right)
                ]
                ids = [
                    tuple(i for i, t in enumerate(objects) if getattr(t, attribute) == word) for word in (left, right)
                ]
                words = {"many_a": nouns[0], "many_b": nouns[1]}
                counted = (("many_a", ids[0]), ("many_b", ids[1]))
                yield _Fact(_MORE, words, answer, ids[0] + ids[1], "more " + answer, counted)


def _logic(objects: Sequence[Thing]) -> Iterator[_Fact]:
    present = sorted({(thing.colour, thing.shape) for thing in objects})
    swapped = sorted({(a.colour, b.shape) for a, b in permutations(objects, 2)} - set(present))
    absent = [(colour, shape) for colour in COLOURS[::3] for shape in SHAPES[::3] if (colour, shape) not in present]
    pool = present + swapped + absent[:3]
    for (colour_a, shape_a), (colour_b, shape_b) in permutations(pool, 2):
        a, b = _name(None, colour_a, shape_a), _name(None, colour_b, shape_b)
        ids_a, ids_b = (
            _matching(objects, colour=colour_a, shape=shape_a),
            _matching(objects, colour=colour_b, shape=shape_b),
        )
        words = {"an_a": _article(a), "an_b": _article(b), "b": b}
        for phrasings, holds, name in (
            (_AND, bool(ids_a and ids_b), "and"),
            (_OR, bool(ids_a or ids_b), "or"),
            (_BUT, bool(ids_a and not ids_b), "but"),
        ):
            answer = "yes" if holds else "no"
            means = (("an_a", ids_a), ("b", ids_b))
            yield _Fact(phrasings, words, answer, ids_a + ids_b, f"{name} {answer}", means)


def describe(objects: Sequence[Thing]) -> str:
    """The whole picture in one sentence, object by object in the order given (reading order in a scene)."""
    phrases = [_phrase(thing) for thing in objects]
    if len(phrases) == 1:
        return phrases[0] + "."
    return ", ".join(phrases[:-1]) + " and " + phrases[-1] + "."


def _phrase(thing: Thing) -> str:
    preposition = {"center": "in the", "left": "on the", "right": "on the"}.get(thing.place, "at the")
    carries = f" with {_article_of_character(thing.character)}" if thing.character else ""
    return f"{_article(_name(thing.size, thing.colour, thing.shape))}{carries} {preposition} {thing.place}"


def _article_of_character(character: str) -> str:
    return f"{'an' if character in 'AEHLX8' else 'a'} {character}"


def _description(objects: Sequence[Thing]) -> Iterator[_Fact]:
    yield _Fact(_DESCRIBE, {}, describe(objects), tuple(range(len(objects))), "describe")


_GENERATORS: dict[str, Callable[[Sequence[Thing]], Iterator[_Fact]]] = {
    "existence": _existence,
    "colour": _attribute(_COLOUR, "colour", lambda thing: thing.colour),
    "shape": _attribute(_SHAPE, "shape", lambda thing: thing.shape),
    "counting": _counting,
    "position": _attribute(_POSITION, "", lambda thing: thing.place),
    "relation": _relation,
    "size": _attribute(_SIZE, "size", lambda thing: thing.size),
    "comparison": _comparison,
    "reading": _attribute(_READING, "", lambda thing: thing.character),
    "logic": _logic,
    "describe": _description,
}


def sample(objects: Sequence[Thing], kind: str, rng: np.random.Generator) -> Question | None:
    """One question of a kind, all its answers equally likely; None if the scene allows none (no card to read)."""
    groups: dict[str, list[_Fact]] = {}
    for fact in _GENERATORS[kind](objects):
        groups.setdefault(fact.balance, []).append(fact)
    if not groups:
        return None
    group = groups[list(groups)[int(rng.integers(len(groups)))]]
    fact = group[int(rng.integers(len(group)))]
    phrasing = fact.phrasings[int(rng.integers(len(fact.phrasings)))]
    return fact.ask(phrasing, kind)


def questions(scene: Scene, seed: int = 0, n: int | None = None) -> list[Question]:
    """Questions of different kinds about a scene, the same for the same seed; of all possible kinds if `n` is None."""
    rng = np.random.default_rng((scene.seed, seed))
    order = [KINDS[index] for index in rng.permutation(len(KINDS))]
    found = [question for kind in order if (question := sample(scene.objects, kind, rng)) is not None]
    return found if n is None else found[:n]


def truth(scene: Scene, text: str) -> str | None:
    """The right answer to a question in any of the phrasings known here; None where the world cannot tell."""
    fact = _fact_asked(scene, text)
    return None if fact is None else fact.answer


def about(scene: Scene, text: str) -> tuple[int, ...] | None:
    """The objects that a question is about, as indices into `scene.objects`; None where the world cannot tell.

    Those that it names: both of a relation or comparison, all that are counted, all of the picture in a description.
    Nothing is named where nothing fits: none for a "no" to "Is there a red star?".
    """
    fact = _fact_asked(scene, text)
    return None if fact is None else tuple(sorted(set(fact.object_ids)))


def _fact_asked(scene: Scene, text: str) -> _Fact | None:
    """What a question in any of the phrasings asks for."""
    wanted = _normal(text)
    for kind in KINDS:
        for fact in _GENERATORS[kind](scene.objects):
            # Blanks without their article, to spare most of the comparing.
            named = all(words.split(" ", 1)[-1] in wanted for words in fact.words.values())
            if named and any(_normal(phrasing.format(**fact.words)) == wanted for phrasing in fact.phrasings):
                return fact
    return None


def _normal(text: str) -> str:
    """Lower case words and digits alone, in British spelling, one space between."""
    return " ".join(re.findall(r"[a-z0-9]+", text.lower().replace("color", "colour")))


def matches(answer: str, right: str) -> bool:
    """Whole answers compared; case, punctuation and spacing do not count."""
    return _normal(answer) == _normal(right)


_OBJECT_PATTERN = re.compile(
    rf"({'|'.join(SIZES)}) ({'|'.join(COLOURS)}) ({'|'.join(SHAPES)})(?: with an? (\w))? (?:at|in|on) the "
    r"((?:top|bottom)(?: left| right)?|left|right|center)"
)


def facts(description: str) -> Counter[tuple[str, ...]]:
    """The single facts a description states: each object, and of each its size, its place and its character."""
    stated: Counter[tuple[str, ...]] = Counter()
    for size, colour, shape, character, place in _OBJECT_PATTERN.findall(description):
        name = f"{colour} {shape}"
        stated.update([(name,), (name, "size", size), (name, "place", place)])
        if character:
            stated[(name, "reads", character.upper())] += 1
    return stated
