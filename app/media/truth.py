"""What is true of a drawn scene, and whether an answer says so."""

from __future__ import annotations

from functools import lru_cache

from flowcut_lens.app.media import gallery
from flowcut_lens.scenes import facts, matches, truth


@lru_cache(maxsize=512)
def right_answer(seed: int, question: str) -> str | None:
    """The right answer to a question about the scene of this seed; None if the scene's world does not know it."""
    return truth(gallery.scene(seed), question)


def is_right(answer: str, right: str) -> bool:
    """Whether an answer is right: equal in words, or, for a description, in the facts it states."""
    stated, true = facts(answer), facts(right)
    return stated == true if true else matches(answer, right)
