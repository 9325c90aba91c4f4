"""LanguageRecord: what a cut inside a language model did with one batch of prompts, and its file. No torch.

Index spaces: *rows of the sequence* count the positions of the uncut prompt from 0, padding included; a *span* is one
picture's run of visual tokens in one prompt, and *visual ids* count inside it. Where spans or prompts are of unequal
length, shorter ones are padded with id -2 and NaN: visual axes at the end, sequence axes at the start.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from flowcut.cut import CutConfig, stored_cut
from flowcut.records.display import one_line
from flowcut.records.tensor_file import read_file, renamed, write_file
from flowcut.records.vision import PADDING_ID

FORMAT = "flowcut-language-record"
FORMAT_VERSION = 2
READ_VERSIONS = (1, 2)
NAMES_OF_VERSION_1 = {"died_at_layer": "pruned_at_layer"}
"""What fields were called in files of that version."""


@dataclass(frozen=True, eq=False)
class LanguageRecord:
    """One prefill of B prompts of L positions with S visual spans, cut after one decoder layer to L' positions."""

    kept_visual_ids: np.ndarray
    """int64 [S, T], indices inside the visual span that are kept after the (last) layer, ascending."""
    span_prompt: np.ndarray
    """int64 [S], the prompt (row of the batch) that each span is in."""
    spans: np.ndarray
    """int64 [S, 2], start of each span in its prompt, and its length N."""
    rows_after: np.ndarray
    """int64 [B, L'], rows of the uncut sequence that are kept after the layer, in the order in which they are read;
    padding is not. A token that was merged from pruned ones has the row of the one at the centre of its cluster."""
    positions_before: np.ndarray
    """int64 [B, L], position ids at the layers up to and with the pruning layer; where visual tokens are numbered by
    time, row and column (Qwen-VL), which no cut changes, the places of all tokens in the prompt."""
    positions_after: np.ndarray
    """int64 [B, L'], position ids at the layers after it: renumbered without gaps, or, where the cut or its method's
    release keeps positions, those that the tokens had."""
    layer: int
    """Decoder layer (from 0) after which visual tokens were pruned, of several the last; each layer keeps the cache of
    all tokens that it read."""
    n_layers: int
    cut: CutConfig | None
    """The cut as given; None: recorded only."""
    relation: np.ndarray | None = None
    """float32 [S, N], rel: head-mean attention of the last instruction token over the span alone; sums to 1. None, as
    the next five, where nothing was to be pruned and so nothing was scored."""
    semantic: np.ndarray | None = None
    """float32 [S, N], sem: head-mean share of value similarity (v . v / sqrt(d)) to that token; sums to 1."""
    value_norm: np.ndarray | None = None
    """float32 [S, N], w: L1 norm of the head-mean value."""
    score: np.ndarray | None = None
    """float32 [S, N], (rel + sem) w."""
    cutoff: np.ndarray | None = None
    """float32 [S], score of the weakest visual token that was kept; NaN for a span that lost none."""
    margin: np.ndarray | None = None
    """float32 [S, N], score - cutoff: negative for pruned tokens, by how far they were below it."""
    ranking: np.ndarray | None = None
    """float32 [S, N], what the method ranked the visual tokens by, the highest kept longest; NaN for a span that lost
    none. Where tokens were pruned after several layers: places in the order of removal, by score among those pruned
    together."""
    pruned_at_layer: np.ndarray | None = None
    """int64 [S, N], the decoder layer after which each visual token was pruned; -1: kept."""
    sources: np.ndarray | None = None
    """int64 [S, N, 2], row of the vision record (tile or frame) and patch that each visual token comes from; (-1, -1)
    is a separator such as a newline token. None where only the decoder is known."""
    model_id: str | None = None
    revision: str | None = None
    family: str | None = None
    dtype: str | None = None
    """The model's own; scores are taken in float32 whatever it is."""
    device: str | None = None
    versions: dict[str, str] = field(default_factory=dict)
    """Library name to version."""
    notes: tuple[str, ...] = ()
    """What a reader must know, one sentence each."""
    differs_from_release: tuple[str, ...] = ()
    """Where this run did something else than the released FlowCut code would have, and why, one sentence each."""

    __repr__ = one_line

    def kept(self, span: int) -> np.ndarray:
        """int64, the kept visual ids of one span, without padding."""
        ids: np.ndarray = self.kept_visual_ids[span]
        kept: np.ndarray = ids[ids != PADDING_ID]
        return kept

    @property
    def removed(self) -> np.ndarray:
        """int64 [B], visual tokens that each prompt lost."""
        lost = self.spans[:, 1] - (self.kept_visual_ids != PADDING_ID).sum(axis=1)
        return np.bincount(self.span_prompt, weights=lost, minlength=len(self.rows_after)).astype(np.int64)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the record to one file, whole or not at all; returns its path."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        arrays = {name: value for name, value in values.items() if isinstance(value, np.ndarray)}
        facts: dict[str, Any] = {name: value for name, value in values.items() if name not in arrays}
        facts["cut"] = None if self.cut is None else self.cut.as_dict()
        return write_file(Path(path), FORMAT, FORMAT_VERSION, facts, arrays)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> LanguageRecord:
        """Read a record written by `save`.

        Raises:
            InvalidRecord: one sentence where the file is missing, is no record, is damaged or of another version.
        """
        facts, arrays = read_file(Path(path), FORMAT, READ_VERSIONS)
        cut = facts.pop("cut")
        sentences = {name: tuple(facts.pop(name)) for name in ("notes", "differs_from_release")}
        return cls(
            **{
                **renamed({**facts, **arrays}, NAMES_OF_VERSION_1),
                **sentences,
                "cut": stored_cut(cut),
            }
        )
