"""Answers as HTML, with the words marked that differ from the full answer."""

from __future__ import annotations

from html import escape

from flowcut.records.run import Run
from flowcut_lens.analysis.fidelity import Word, compare


def marked_answer(full: Run, run: Run) -> str:
    """A pruned run's answer, the words that differ from the full answer marked."""
    return marked_words(compare(full, run).other_words) or "(empty)"


def marked_words(words: tuple[Word, ...]) -> str:
    """Words of an answer; escaped, those that differ marked."""
    return " ".join(f"<mark>{escape(word.text)}</mark>" if word.differs else escape(word.text) for word in words)
