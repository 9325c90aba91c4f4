"""Questions in: free text of any script, made safe to put beside a picture's placeholder, or one sentence why not."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from flowcut.errors import InvalidQuestion

MAX_CHARACTERS = 4000


@dataclass(frozen=True)
class CleanText:
    """Text that a prompt can hold."""

    text: str
    notes: tuple[str, ...] = ()
    """What was changed, one sentence each."""


def clean_text(text: Any, reserved: Iterable[str], what: str = "question") -> CleanText:
    """Check a question (or system prompt) and take from it what a tokenizer would read as a command.

    Args:
        text: what the person wrote; any script, emoji and HTML are plain text here.
        reserved: the tokenizer's special tokens; found in the text they are spelled apart, so that `<image>` in a
            question never becomes a second picture.
        what: what to call the text in a sentence.

    Raises:
        InvalidQuestion: (a ValueError) it is no text, blank, or too long.
    """
    if not isinstance(text, str):
        raise InvalidQuestion(f"The {what} is a {type(text).__name__}: write it as text.")
    if len(text) > MAX_CHARACTERS:
        raise InvalidQuestion(f"The {what} has {len(text)} characters: shorten it to at most {MAX_CHARACTERS}.")
    readable = "".join(" " if _is_control(character) else character for character in text).strip()
    if not any(_is_visible(character) for character in readable):
        raise InvalidQuestion(f"The {what} is empty: write at least one word.")
    found = [token for token in sorted(set(reserved), key=len, reverse=True) if token and token in readable]
    for token in found:
        readable = readable.replace(token, f"{token[0]} {token[1:]}")
    notes = tuple(f"'{token}' in the {what} was read as plain text, not as a command to the model." for token in found)
    return CleanText(readable, notes)


def _is_control(character: str) -> bool:
    """Control characters and lone surrogates, which no tokenizer takes; line breaks and tabs stay."""
    return unicodedata.category(character) in ("Cc", "Cs") and character not in "\n\t"


def _is_visible(character: str) -> bool:
    return unicodedata.category(character)[0] not in "ZC"
