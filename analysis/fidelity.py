"""Two answers to one question compared: where they part, how much less likely one became, which words differ."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flowcut.results import Run


@dataclass(frozen=True)
class Divergence:
    """The first place at which two answers' tokens differ."""

    position: int
    """From 0; equal to the shorter answer's length where it is a beginning of the longer one."""
    reference_text: str | None
    """The reference's token there; None where the reference had ended."""
    other_text: str | None


@dataclass(frozen=True)
class Word:
    """A word of an answer, in order."""

    text: str
    differs: bool
    """Whether the other answer has no such word in this place."""


@dataclass(frozen=True)
class Fidelity:
    """How an answer compares with a reference answer to the same question."""

    same_tokens: bool
    divergence: Divergence | None
    """None where the tokens are the same."""
    logprob_gap: float | None
    """Mean over `compared_tokens` of ln p(reference's token) in the other run minus in the reference; negative: the
    reference's answer became less likely. None: nothing to compare."""
    gap_is_bound: bool
    """True where the reference's token was not among the runners-up that the other run kept at the place where they
    part: the gap is then at most `logprob_gap` (the least likely runner-up stands in)."""
    compared_tokens: int
    """Places with the same text before them in both runs: all shared tokens, and the first that differs."""
    shared_tokens: int
    """Tokens before the answers part."""
    reference_words: tuple[Word, ...]
    other_words: tuple[Word, ...]


def compare(reference: Run, other: Run) -> Fidelity:
    """Compare an answer with the reference, usually a pruned run with the unpruned one.

    Raises:
        ValueError: the runs are of different questions or pictures.
    """
    if (reference.question, reference.image_hash) != (other.question, other.image_hash):
        raise ValueError(
            "These runs answer different questions or show different pictures: compare runs of one question."
        )
    shared = _shared_prefix([token.id for token in reference.tokens], [token.id for token in other.tokens])
    divergence = _divergence(reference, other, shared)
    reference_words, other_words = mark_words(reference.answer, other.answer)
    gaps, is_bound = _logprob_gaps(reference, other, shared)
    mean_gap = sum(gaps) / len(gaps) if gaps else None
    return Fidelity(divergence is None, divergence, mean_gap, is_bound, len(gaps), shared, reference_words, other_words)


def mark_words(reference: str, other: str) -> tuple[tuple[Word, ...], tuple[Word, ...]]:
    """Both answers as words, each marked where the other has no equal word in this place."""
    left, right = reference.split(), other.split()
    kept_left: set[int] = set()
    kept_right: set[int] = set()
    for block in SequenceMatcher(a=left, b=right, autojunk=False).get_matching_blocks():
        kept_left.update(range(block.a, block.a + block.size))
        kept_right.update(range(block.b, block.b + block.size))
    return (
        tuple(Word(text, place not in kept_left) for place, text in enumerate(left)),
        tuple(Word(text, place not in kept_right) for place, text in enumerate(right)),
    )


def _shared_prefix(left: list[int], right: list[int]) -> int:
    pairs = zip(left, right, strict=False)
    return next((place for place, (a, b) in enumerate(pairs) if a != b), min(len(left), len(right)))


def _divergence(reference: Run, other: Run, shared: int) -> Divergence | None:
    if shared == len(reference.tokens) == len(other.tokens):
        return None
    here = [run.tokens[shared].text if shared < len(run.tokens) else None for run in (reference, other)]
    return Divergence(shared, here[0], here[1])


def _logprob_gaps(reference: Run, other: Run, shared: int) -> tuple[list[float], bool]:
    """ln p of the reference's token, other minus reference, at every place that has the same text before it."""
    gaps = [b.logprob - a.logprob for a, b in zip(reference.tokens[:shared], other.tokens[:shared], strict=True)]
    if shared >= min(len(reference.tokens), len(other.tokens)):
        return gaps, False
    wanted, runners_up = reference.tokens[shared], other.tokens[shared].runners_up
    known = {token_id: logprob for token_id, _, logprob in runners_up}
    if not known:
        return gaps, False
    found = known.get(wanted.id, min(known.values()))
    return [*gaps, found - wanted.logprob], wanted.id not in known
