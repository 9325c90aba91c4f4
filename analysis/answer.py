"""The words of an answer, and the attention of the language model to the picture when it chose each of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from flowcut.records.answer_attention import AnswerAttention
from flowcut.records.run import Run


@dataclass(frozen=True)
class AnswerWord:
    """One word of an answer, of one token or several."""

    text: str
    tokens: tuple[int, ...]
    """Places of its tokens in the answer, from 0."""


@dataclass(frozen=True)
class Masses:
    """How the attention of a word divides, as shares that sum to 1."""

    picture: float
    prompt: float
    """The prompt's text but for its first token."""
    first: float
    """The prompt's first token: where attention with nowhere to go sinks."""
    answer: float
    """The answer so far."""


def answer_words(run: Run) -> tuple[AnswerWord, ...]:
    """The answer's tokens put together to words: a new one begins where a token begins with a space."""
    words: list[tuple[str, list[int]]] = []
    for place, token in enumerate(run.tokens):
        if not token.text.strip():
            continue  # an end that is not shown
        if words and not token.text[:1].isspace():
            words[-1] = words[-1][0] + token.text, [*words[-1][1], place]
        else:
            words.append((token.text, [place]))
    return tuple(AnswerWord(text.strip(), tuple(places)) for text, places in words)


def same_word(words: tuple[AnswerWord, ...], wanted: tuple[AnswerWord, ...], at: int) -> AnswerWord | None:
    """The word `wanted[at]` in another answer, nearest to its own place; else what stands in that place, if any."""
    places = [place for place, word in enumerate(words) if word.text == wanted[at].text]
    nearest = min(places, key=lambda place: abs(place - at), default=at)
    return words[nearest] if nearest < len(words) else None


def look(
    attention: AnswerAttention,
    word: AnswerWord,
    layer: int | None = None,
    head: int | None = None,
    weighted: bool = False,
) -> np.ndarray:
    """float64 [V], attention of a word to each visual token; mean over its tokens, and over layers and heads if None.

    Args:
        weighted: the norm of attention times value instead of the attention itself.
    """
    seen = attention.weighted_norm if weighted else attention.visual
    view = seen[list(word.tokens)][:, _only(layer)][:, :, _only(head)].astype(np.float64)
    seen = ~np.isnan(view)  # a token that was cut inside the decoder is not seen by the layers after
    total = np.where(seen, view, 0).sum(axis=(0, 1, 2))
    mean: np.ndarray = total / np.maximum(seen.sum(axis=(0, 1, 2)), 1)
    return mean


def by_patch(attention: AnswerAttention, values: np.ndarray, row: int) -> tuple[np.ndarray, np.ndarray]:
    """What each patch of one row of the vision record (tile, frame) gets of the values of visual tokens.

    A token made of several patches is shared out by their shares; separators, such as newline tokens, show nowhere.

    Args:
        values: [V], one number per visual token, as `look` gives.

    Returns:
        int64 [K], the patches that some visual token is made of, ascending, and float64 [K], what they get.

    Raises:
        ValueError: the attention does not know what its visual tokens are made of.
    """
    if attention.source_patches is None or attention.shares is None:
        raise ValueError("This run does not know which patches its visual tokens are made of: ask again.")
    here = (attention.source_patches[..., 0] == row) & (attention.shares > 0)
    patches, place = np.unique(attention.source_patches[..., 1][here], return_inverse=True)
    shared = (attention.shares * values[:, None])[here]
    return patches, np.bincount(place, weights=shared, minlength=len(patches))


def masses(attention: AnswerAttention, word: AnswerWord, layer: int | None = None, head: int | None = None) -> Masses:
    """How a word's attention divides between picture and text; means as in `look`."""
    kinds = (attention.visual_mass, attention.prompt_text, attention.first, attention.answer_text)
    picture, prompt, first, answer = (
        float(kind[list(word.tokens)][:, _only(layer)][:, :, _only(head)].mean()) for kind in kinds
    )
    return Masses(picture, prompt, 0.0 if attention.first_is_visual else first, answer)


def heads_by_mass(attention: AnswerAttention, word: AnswerWord, layer: int | None = None) -> list[tuple[int, float]]:
    """Every head with the share of its attention that goes to the picture, the most first; mean over layers if None."""
    mass = attention.visual_mass[list(word.tokens)][:, _only(layer)].mean(axis=(0, 1))
    return [(int(head), float(mass[head])) for head in np.argsort(-mass, kind="stable")]


def _only(index: int | None) -> slice:
    return slice(None) if index is None else slice(index, index + 1)
