"""AnswerAttention: what each token of an answer attended to, by decoder layer and head, and its file. No torch."""

from __future__ import annotations

import os
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from flowcut.records.display import one_line
from flowcut.records.tensor_file import read_file, renamed, write_file

FORMAT = "flowcut-answer-attention"
FORMAT_VERSION = 2
READ_VERSIONS = (1, 2)
NAMES_OF_VERSION_1 = {"parts": "source_patches"}
"""What fields were called in files of that version."""


@dataclass(frozen=True, eq=False)
class AnswerAttention:
    """Attention of A answer tokens in D decoder layers of H heads, to V visual tokens and to text.

    A token's attention is that of the position which chose it: the last of the prompt for the first answer token, the
    token before it for every other. Kinds of tokens are told apart by their positions. In each layer and head the sum
    of `visual` (NaN left out), `prompt_text`, `answer_text` and, unless the first token is itself visual, `first` is 1.
    Both large arrays take 4 A D H V bytes in memory: 128 tokens over 64 visual ones in a 7B model, 34 MB each.
    """

    visual: np.ndarray
    """float32 [A, D, H, V], attention paid to each visual token in the decoder's input, separators such as newline
    tokens included; NaN in layers that the token did not reach, having been cut inside the decoder."""
    weighted_norm: np.ndarray
    """float32 [A, D, H, V], L2 norm of attention times value: what a visual token really adds to the head's output."""
    first: np.ndarray
    """float32 [A, D, H], attention paid to the prompt's first token, where attention with nowhere to go sinks."""
    prompt_text: np.ndarray
    """float32 [A, D, H], attention paid to the prompt's other text."""
    answer_text: np.ndarray
    """float32 [A, D, H], attention paid to the answer so far; 0 for its first token."""
    visual_rows: np.ndarray
    """int64 [V], the visual tokens' places in the prompt, from 0."""
    source_patches: np.ndarray | None = None
    """int64 [V, P, 2], row of the vision record (tile, frame) and patch of each source of a visual token, the
    largest first; -1: no source, and all -1: a separator. None where only the decoder is known."""
    shares: np.ndarray | None = None
    """float32 [V, P], the share of each source patch; they sum to 1, or to 0 for a separator."""
    layers: np.ndarray | None = None
    """int64 [D], the decoder layers (from 0) that are recorded, where others have linear attention, which has no
    weights; None: all are."""

    __repr__ = one_line

    @property
    def first_is_visual(self) -> bool:
        """Whether the prompt begins with a visual token: its attention is then in `first` and in `visual`."""
        return bool((self.visual_rows == 0).any())

    @property
    def decoder_layers(self) -> tuple[int, ...]:
        """The decoder layer, from 0, of each of the D that are recorded."""
        found = range(self.visual.shape[1]) if self.layers is None else self.layers.tolist()
        return tuple(found)

    @property
    def visual_mass(self) -> np.ndarray:
        """float32 [A, D, H], attention paid to all visual tokens together."""
        mass: np.ndarray = np.nansum(self.visual, axis=-1)
        return mass

    @property
    def text(self) -> np.ndarray:
        """float32 [A, D, H], attention paid to text: the prompt's, its first token left out, and the answer's."""
        mass: np.ndarray = self.prompt_text + self.answer_text
        return mass

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write to one file, whole or not at all; returns its path."""
        arrays = {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) is not None}
        return write_file(Path(path), FORMAT, FORMAT_VERSION, {}, arrays)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> AnswerAttention:
        """Read what `save` wrote.

        Raises:
            InvalidRecord: one sentence where the file is missing, is of another kind, is damaged or of another version.
        """
        _, arrays = read_file(Path(path), FORMAT, READ_VERSIONS)
        return cls(**renamed(arrays, NAMES_OF_VERSION_1))
