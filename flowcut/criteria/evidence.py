"""What a criterion may look at, and what it may know of the cut. Arrays only: who gathers them is not known here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np


class Budget(Protocol):
    """What a criterion may know of the cut that it ranks for; a `flowcut.CutConfig` is one."""

    @property
    def tokens(self) -> int:
        """T, patches to keep per image."""

    @property
    def seed(self) -> int | None:
        """Seed of the draw, for methods that take one."""

    @property
    def per_image(self) -> bool:
        """Whether each image of a batch is drawn for by itself."""

    @property
    def patches(self) -> tuple[int, ...] | None:
        """The patches that somebody named, ascending, for methods that take them."""

    @property
    def variant(self) -> str:
        """`official` or `paper`, for methods that have variants."""

    def setting(self, name: str) -> bool | float:
        """The value of one of the method's own settings."""


@dataclass(frozen=True, eq=False)
class Evidence:
    """One vision encoder's run over a batch, all N patches kept so far. What the method does not need is None."""

    batch: int
    """B, images."""
    n_patches: int
    """N, patches per image; where squares of patches become one token, these."""
    cls_attention: np.ndarray | None = None
    """float64 [B, N], head-mean attention that CLS pays to each patch at the chosen layer."""
    value_norm: np.ndarray | None = None
    """float64 [B, N], L1 norm of the head-mean value of each patch, at the same layer."""
    middle_mean: np.ndarray | None = None
    """float64 [B, N], column mean at a middle layer: attention that a patch receives, mean over heads and queries."""
    deep_mean: np.ndarray | None = None
    """float64 [B, N], column mean at the feature layer."""
    keys: np.ndarray | None = None
    """float64 [B, N, d], head-mean key of each patch at the feature layer."""
    features: np.ndarray | None = None
    """float64 [B, N, width], what the feature layer gives; for methods behind the projector, what that gives."""
    grid_cols: int | None = None
    """Patches in a row of the grid."""
    n_frames: int | None = None
    """Frames of a video, whose tokens come one frame after the other, as many of each: behind the projector only."""
    with_cls: bool = False
    """Whether CLS goes on as one more token than the cut's count of patches."""


@dataclass(frozen=True, eq=False)
class DecoderEvidence:
    """One picture's visual tokens inside a decoder, the n of them that are still kept. Not needed: None."""

    n_visual: int
    """n."""
    last_attention: np.ndarray | None = None
    """float64 [n], head-mean attention that the prompt's last token pays to each, out of all that it attends to."""
    rater_attention: np.ndarray | None = None
    """float64 [n], the same as a mean over the text tokens after the picture that are most like it (SparseVLM)."""
    prior_attention: np.ndarray | None = None
    """float64 [n], the same for the first text token after the picture, which sees none of what follows (PriorTR)."""
    visual_keys: np.ndarray | None = None
    """float64 [n, d], keys of all heads side by side."""
    text_keys: np.ndarray | None = None
    """float64 [m, d], those of the m text tokens after the picture."""
    visual_states: np.ndarray | None = None
    """float64 [n, width], hidden states after the layer, normalised by the decoder's last norm."""
    text_states: np.ndarray | None = None
    """float64 [m, width], those of the text tokens."""
    visual_hidden: np.ndarray | None = None
    """float64 [n, width], hidden states after the layer, as they are."""
    visual_rows: np.ndarray | None = None
    """int64 [n], places of the visual tokens in the uncut prompt, padding not counted."""
    text_rows: np.ndarray | None = None
    """int64 [m], those of the text tokens."""


def needed(value: Any) -> np.ndarray:
    """A part of the evidence that the method needs."""
    assert isinstance(value, np.ndarray), "a method uses evidence that its registry line does not ask for"
    return value


def highest(ranking: np.ndarray, count: int) -> np.ndarray:
    """int64 [..., count], where the highest of [..., N] lie, ascending; of equal ones, the first in reading order."""
    strongest_first = np.argsort(-ranking, axis=-1, kind="stable")
    return np.sort(strongest_first[..., :count], axis=-1)


def by_choice(order: np.ndarray, n: int) -> np.ndarray:
    """float64 [n], a ranking from the ids in the order of their choice: the first is highest, the rest tie at 0."""
    ranking = np.zeros(n)
    ranking[order] = np.arange(len(order), 0, -1)
    return ranking


def by_removal(when: np.ndarray, score: np.ndarray) -> np.ndarray:
    """float64 [..., N], a ranking of what was pruned in steps: by when, then by last score, then by reading order.

    Args:
        when: [..., N], larger is later; what is kept has the largest.
        score: [..., N], the score when it was pruned, or the last one.

    Returns:
        Places in this order: 0 is the lowest, and was pruned first.
    """
    backwards = np.broadcast_to(-np.arange(when.shape[-1]), when.shape)  # of equal ones, the first is the higher
    order = np.lexsort((backwards, score, when), axis=-1)
    places = np.empty(order.shape)
    np.put_along_axis(places, order, np.broadcast_to(np.arange(order.shape[-1], dtype=float), order.shape), axis=-1)
    return places


def unit(vectors: np.ndarray) -> np.ndarray:
    """float64 [..., d], vectors of length 1; a zero vector stays zero, and is like nothing."""
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / np.where(length > 0, length, 1.0)
