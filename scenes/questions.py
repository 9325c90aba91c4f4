"""Questions about a scene whose answers are known, in many phrasings, and how an answer is marked."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from flowcut_lens.scenes.askable import GENERATORS, Fact, Thing
from flowcut_lens.scenes.phrasings import without_article
from flowcut_lens.scenes.world import CHART, COLOURS, SHAPES, SIZES, Scene

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
    "small print",
    "chart",
)


@dataclass(frozen=True)
class Question:
    """A question, its whole answer, its kind, and the objects (indices into the scene) it is about."""

    text: str
    answer: str
    kind: str
    object_ids: tuple[int, ...]
    mentions: tuple[tuple[str, tuple[int, ...]], ...] = ()
    """The names of objects in the text, in order, and the objects each of them means."""


def sample(objects: Sequence[Thing], kind: str, rng: np.random.Generator) -> Question | None:
    """One question of a kind, all its answers equally likely; None if the scene allows none (no card to read)."""
    groups: dict[str, list[Fact]] = {}
    for fact in GENERATORS[kind](objects):
        groups.setdefault(fact.balance, []).append(fact)
    if not groups:
        return None
    group = groups[list(groups)[int(rng.integers(len(groups)))]]
    fact = group[int(rng.integers(len(group)))]
    phrasing = fact.phrasings[int(rng.integers(len(fact.phrasings)))]
    mentions = tuple((without_article(fact.words[blank]), ids) for blank, ids in fact.means)
    return Question(phrasing.format(**fact.words), fact.answer, kind, fact.object_ids, mentions)


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


def _fact_asked(scene: Scene, text: str) -> Fact | None:
    """What a question in any of the phrasings asks for."""
    wanted = _normal(text)
    for kind in KINDS:
        for fact in GENERATORS[kind](scene.objects):
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
    rf"({'|'.join(SIZES)}) ({'|'.join(COLOURS)}) ({'|'.join((*SHAPES, CHART))})"
    r"(?: with (?:an? )?(\w+)(?: bars)?)?(?: above (\w+))? (?:at|in|on) the "
    r"((?:top|bottom)(?: left| right)?|left|right|center)"
)


def facts(description: str) -> Counter[tuple[str, ...]]:
    """The single facts a description states: each object, and of each its size, its place, what is written
    on it (of a chart, how many bars it has) and its small print."""
    stated: Counter[tuple[str, ...]] = Counter()
    for size, colour, shape, text, small_print, place in _OBJECT_PATTERN.findall(description):
        name = f"{colour} {shape}"
        stated.update([(name,), (name, "size", size), (name, "place", place)])
        if text:
            stated[(name, "reads", text.upper())] += 1
        if small_print:
            stated[(name, "small print", small_print.upper())] += 1
    return stated
