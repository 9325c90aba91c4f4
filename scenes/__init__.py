"""The drawn world: pictures made from a seed, what is truly in them, and questions whose answers are known.

The embedded model is trained on these scenes and the app marks its answers against them. The package needs numpy and
Pillow only, so that a scene can be drawn before (or without) any model.
"""

from flowcut_lens.scenes.askable import describe
from flowcut_lens.scenes.questions import KINDS, Question, about, facts, matches, questions, sample, truth
from flowcut_lens.scenes.render import draw
from flowcut_lens.scenes.world import (
    CHARACTERS,
    COLOURS,
    SHAPES,
    SIZES,
    WORDS,
    Scene,
    SceneMix,
    SceneObject,
    derived_seed,
)

__all__ = [
    "CHARACTERS",
    "COLOURS",
    "KINDS",
    "SHAPES",
    "SIZES",
    "WORDS",
    "Question",
    "Scene",
    "SceneMix",
    "SceneObject",
    "about",
    "derived_seed",
    "describe",
    "draw",
    "facts",
    "matches",
    "questions",
    "sample",
    "truth",
]
