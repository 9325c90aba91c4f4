"""The wording of questions: phrasings by what is asked, with blanks, and the nouns that fill the blanks."""

from __future__ import annotations

EXISTENCE = (
    "Is there {an_a} in the picture?",
    "Is there {an_a}?",
    "Do you see {an_a}?",
    "Can you see {an_a} here?",
    "Does the picture show {an_a}?",
    "Is {an_a} anywhere in the image?",
)
COLOUR = (
    "What colour is the {a}?",
    "What color is the {a}?",
    "Which colour does the {a} have?",
    "Tell me the color of the {a}.",
    "The {a} is what colour?",
    "What is the colour of the {a}?",
)
SHAPE = (
    "What shape is the {a}?",
    "Which shape does the {a} have?",
    "What is the shape of the {a}?",
    "Tell me the shape of the {a}.",
    "The {a} has what shape?",
)
COUNTING = (
    "How many {many_a} are there?",
    "How many {many_a} are in the picture?",
    "How many {many_a} do you see?",
    "Count the {many_a}.",
    "What is the number of {many_a}?",
    "How many {many_a} can you count?",
)
POSITION = (
    "Where is the {a}?",
    "Where in the picture is the {a}?",
    "In which part of the picture is the {a}?",
    "Where do you see the {a}?",
    "What is the position of the {a}?",
    "Tell me where the {a} is.",
)
RELATION = (
    "Is the {a} {relation} the {b}?",
    "Does the {a} lie {relation} the {b}?",
    "Can you see the {a} {relation} the {b}?",
    "Would you say the {a} is {relation} the {b}?",
)
SIZE = (
    "What size is the {a}?",
    "Is the {a} small or large?",
    "Is the {a} large or small?",
    "How big is the {a}?",
    "What is the size of the {a}?",
)
LARGER = (
    "Which is larger, the {a} or the {b}?",
    "Which is bigger, the {a} or the {b}?",
    "What is larger: the {a} or the {b}?",
)
SMALLER = ("Which is smaller, the {a} or the {b}?", "What is smaller: the {a} or the {b}?")
FURTHER = ("Which is further {side}, the {a} or the {b}?", "What is further {side}: the {a} or the {b}?")
MORE = (
    "Are there more {many_a} than {many_b}?",
    "Do you see more {many_a} than {many_b}?",
    "Are the {many_a} more than the {many_b}?",
)
READING = (
    "What is written on the {a}?",
    "What does the {a} say?",
    "What is on the {a}?",
    "Which character is on the {a}?",
    "Read the {a}.",
    "What do you read on the {a}?",
)
SMALL_PRINT = (
    "What does the small print on the {a} say?",
    "Read the small print on the {a}.",
    "What is the small print on the {a}?",
    "What is written in small letters on the {a}?",
)
BAR = (
    "What number is on the {a}?",
    "Which number stands above the {a}?",
    "What is the value of the {a}?",
    "How high is the {a}?",
)
HIGHEST_BAR = (
    "Which bar is the highest?",
    "What colour is the highest bar?",
    "Which bar has the largest number?",
    "What color is the tallest bar?",
)
LOWEST_BAR = (
    "Which bar is the lowest?",
    "What colour is the lowest bar?",
    "Which bar has the smallest number?",
    "What color is the shortest bar?",
)
BARS = ("How many bars does the chart have?", "How many bars are in the chart?", "Count the bars of the chart.")
AND = (
    "Is there {an_a} and {an_b}?",
    "Are there both {an_a} and {an_b}?",
    "Do you see {an_a} and also {an_b}?",
)
OR = ("Is there {an_a} or {an_b}?", "Do you see {an_a} or {an_b}?", "Is there either {an_a} or {an_b}?")
BUT = ("Is there {an_a} but no {b}?", "Do you see {an_a} but no {b}?")
DESCRIBE = (
    "Describe the picture.",
    "What is in the picture?",
    "What do you see?",
    "Describe the image.",
    "Describe what you see.",
    "List everything in the picture.",
    "What does the picture show?",
)

PLURAL = {"cross": "crosses", "thing": "things", "object": "objects"}
RELATIONS: dict[str, tuple[str, ...]] = {
    "left": ("left of", "to the left of"),
    "right": ("right of", "to the right of"),
    "above": ("above", "higher than"),
    "below": ("below", "lower than"),
}
SIDES = {"left": "left", "right": "right", "above": "up", "below": "down"}


def article(noun: str) -> str:
    """The noun behind "a" or "an"."""
    return ("an " if noun[0] in "aeiou" else "a ") + noun


def without_article(noun: str) -> str:
    """The noun alone."""
    return noun.removeprefix("a ").removeprefix("an ")


def plural(noun: str) -> str:
    """The noun's plural; adjectives before it stay."""
    *front, last = noun.split()
    return " ".join((*front, PLURAL.get(last, last + "s")))


def name_of(size: str | None, colour: str | None, shape: str | None) -> str:
    """What an object of these attributes is called; without a shape it is a thing."""
    return " ".join(word for word in (size, colour, shape or "thing") if word)
