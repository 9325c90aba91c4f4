"""Two answers to one question compared: where they part, how much less likely one became, which words differ."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flowcut.records.run import Run


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
    """Mean ln p per token over the tokens both share before they part, other minus reference: negative, the other run
    was less sure of the same words. None: none shared."""
    reference_loss_at_divergence: float | None
    """Where they part, by the OTHER run: ln p of its own token minus ln p of the reference's, in nats. None where
    nothing differs, or where the reference's token is not among the runners-up that were kept."""
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
    shared = _shared_prefix(reference.token_ids, other.token_ids)
    divergence = _divergence(reference, other, shared)
    reference_words, other_words = mark_words(reference.answer, other.answer)
    gap, loss = _logprob_gap(reference, other, shared), _loss_at(reference, other, shared)
    return Fidelity(divergence is None, divergence, gap, loss, shared, reference_words, other_words)


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


def _logprob_gap(reference: Run, other: Run, shared: int) -> float | None:
    if shared == 0:
        return None
    gaps = [b.logprob - a.logprob for a, b in zip(reference.tokens[:shared], other.tokens[:shared], strict=True)]
    return sum(gaps) / shared


def _loss_at(reference: Run, other: Run, shared: int) -> float | None:
    if shared >= min(len(reference.tokens), len(other.tokens)):
        return None
    wanted, given = reference.tokens[shared].id, other.tokens[shared]
    return next((given.logprob - logprob for token_id, _, logprob in given.runners_up if token_id == wanted), None)
