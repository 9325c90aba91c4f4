"""Criteria inside the language model: which visual tokens go on after one of its layers, and after which layers."""

from __future__ import annotations

import numpy as np

from flowcut.criteria.evidence import Budget, DecoderEvidence, by_choice, needed, unit

PIVOTS = 4
"""DART: pivots among the visual tokens, and as many among the text tokens."""
PUBLISHED_DEPTH = 32
"""Layers of the language models that the papers give their layers for."""


def second_layer(n_layers: int) -> tuple[int, ...]:
    """FastV and DART, K = 2: the layers from 2 on read the kept tokens, so the cut is after layer 1; not scaled."""
    return (min(1, n_layers - 2),)


def pyramid_layers(n_layers: int) -> tuple[int, ...]:
    """PyramidDrop: before layers 8, 16 and 24 of 32, scaled; the layers after which tokens go."""
    return scaled_layers((8, 16, 24), n_layers)


def sparse_layers(n_layers: int) -> tuple[int, ...]:
    """SparseVLM: after layers 2, 6 and 15 of 32, scaled."""
    return scaled_layers((3, 7, 16), n_layers)


def scaled_layers(starts: tuple[int, ...], n_layers: int) -> tuple[int, ...]:
    """Layers after which to cut, from the first layers that read fewer tokens at the published depth; each once."""
    first = {min(max(round(start * n_layers / PUBLISHED_DEPTH), 1), n_layers - 1) for start in starts}
    return tuple(sorted(layer - 1 for layer in first))


def step_tokens(n: int, tokens: int, step: int, steps: int) -> int:
    """Visual tokens left after a step (from 0) of several: the same share goes at each, and T are left at the end.

    PyramidDrop's lambda, n lambda^i, chosen so that the last step leaves T. SparseVLM's own numbers are a table for
    three budgets that are means over layers; this rule stands in for it at any T.
    """
    if step == steps - 1 or n <= tokens:
        return min(n, tokens)
    left: float = (tokens / n) ** ((step + 1) / steps)
    return max(tokens, round(n * left))


def last_token_attention(evidence: DecoderEvidence, cut: Budget) -> np.ndarray:
    """float64 [n], FastV and PyramidDrop: the attention that the prompt's last token pays to each visual token."""
    return needed(evidence.last_attention)


def rater_attention(evidence: DecoderEvidence, cut: Budget) -> np.ndarray:
    """float64 [n], SparseVLM: the mean attention of the text tokens that are most like the picture, its raters."""
    return needed(evidence.rater_attention)


def raters(visual: np.ndarray, text: np.ndarray) -> np.ndarray:
    """int64, SparseVLM: text tokens that are more like the picture than text tokens are on average.

    Args:
        visual: [N, width], the picture's tokens as they enter the decoder.
        text: [M, width], the text tokens after it.
    """
    logits = visual @ text.T
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    liking = (shares / shares.sum(axis=1, keepdims=True)).mean(axis=0)
    found = np.flatnonzero(liking > liking.mean())
    return found if len(found) else np.arange(len(text))  # all alike: each is as good a rater as any


def dart(evidence: DecoderEvidence, cut: Budget) -> np.ndarray:
    """float64 [n], the order in which DART chooses T tokens: image pivots, then what each pivot adds.

    Pivots are the 4 visual and the 4 text tokens of largest key (L1 norm). Each in turn adds the visual tokens least
    like it (cosine of hidden states) that are still free: `paper` goes through the image pivots first, `official`
    through all in the order of a Python set of their places in the prompt, as released. The 8 share what the image
    pivots leave of the budget, the first ones taking what cannot be divided: the released code, told to keep T - 4,
    gives each (T - 4)/8 and keeps its image pivots besides, which makes T.
    """
    visual_keys, text_keys = needed(evidence.visual_keys), needed(evidence.text_keys)
    visual, text = unit(needed(evidence.visual_states)), unit(needed(evidence.text_states))
    order, asking = _largest(visual_keys, min(PIVOTS, cut.tokens)).tolist(), _largest(text_keys, PIVOTS)
    pivots = np.concatenate([visual[order], text[asking]])
    if cut.variant == "official":
        rows = np.concatenate([needed(evidence.visual_rows)[order], needed(evidence.text_rows)[asking]])
        pivots = pivots[_order_of_a_set(rows)]
    each, rest = divmod(cut.tokens - len(order), len(pivots))
    for number, likeness in enumerate(pivots @ visual.T):
        likeness[order] = np.inf
        order += np.argsort(likeness, kind="stable")[: each + (number < rest)].tolist()
    return by_choice(np.array(order), evidence.n_visual)


def _order_of_a_set(rows: np.ndarray) -> list[int]:
    """Where the elements of a Python set of these whole numbers lie among them, in the order in which it gives them.

    A whole number is its own hash, so that the order depends on the numbers and on nothing else.
    """
    numbers = rows.tolist()
    return [numbers.index(number) for number in set(numbers)]


def _largest(keys: np.ndarray, count: int) -> np.ndarray:
    return np.argsort(-np.abs(keys).sum(axis=1), kind="stable")[:count]
