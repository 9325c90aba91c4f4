"""Where the visual tokens of a batch of prompts are: read from what a caller gives, and checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor, nn

from flowcut.checks import is_whole
from flowcut.decoder.two_way import CAUSAL
from flowcut.errors import FlowCutError

Spans = list[list[tuple[int, int]]]
"""Per prompt, (start, length) of each picture's run of visual tokens."""


@dataclass(frozen=True, eq=False)
class Aim:
    """Where the visual tokens of a batch of prompts are, and where their instructions end."""

    spans: Spans
    one_for_all: bool
    """Whether the spans are those of every prompt."""
    instruction_end: int | list[int] | None
    """One past the last instruction token, for all prompts or for each; None: the last token that is no padding."""
    blocks: Tensor | None = None
    """int64 [prompts, L], tokens of one number see each other both ways, -1: causal; None: all are causal."""

    @classmethod
    def at(cls, visual: Any, instruction_end: int | Sequence[int] | None = None, blocks: Tensor | None = None) -> Aim:
        """
        Raises:
            FlowCutError: the spans are not pairs of whole numbers.
        """
        end = instruction_end if isinstance(instruction_end, int | None) else list(instruction_end)
        return cls(*read_spans(visual), end, blocks)

    def spans_of(self, batch: int) -> Spans:
        """The spans of each prompt of a batch; beams and returned sequences repeat each prompt."""
        if not self.one_for_all and batch % len(self.spans):
            raise FlowCutError(
                f"visual has spans for {len(self.spans)} prompts and the batch holds {batch}: "
                "give one (start, length) for all, or one for each prompt."
            )
        return [own for own in self.spans for _ in range(batch // len(self.spans))]

    def repeats(self, batch: int) -> int:
        """How often each prompt stands in a batch."""
        return 1 if self.one_for_all or not self.spans else batch // len(self.spans)

    def blocks_of(self, batch: int, length: int) -> Tensor | None:
        """int64 [B, L], the blocks of each prompt of a batch; what follows a prompt is causal."""
        if self.blocks is None:
            return None
        whole = self.blocks.repeat_interleave(batch // len(self.blocks), dim=0)
        return nn.functional.pad(whole, (0, length - whole.shape[1]), value=CAUSAL)

    def ends(self, batch: int, live: Tensor) -> list[int]:
        """Per prompt, one past its last instruction token; bool [B, L] in, False where a prompt is padded."""
        wanted = self.instruction_end
        if wanted is None:
            return [int(np.flatnonzero(kept)[-1]) + 1 if kept.any() else 0 for kept in live.numpy()]
        ends = [wanted] if isinstance(wanted, int) else wanted
        if batch % len(ends):
            raise FlowCutError(f"instruction_end has {len(ends)} entries and the batch holds {batch} prompts.")
        return [end for end in ends for _ in range(batch // len(ends))]


def read_spans(visual: Any) -> tuple[Spans, bool]:
    """Spans per prompt, and whether they are one for all prompts."""
    entries = visual.tolist() if isinstance(visual, Tensor | np.ndarray) else list(visual)
    if len(entries) == 2 and all(is_whole(entry) for entry in entries):
        return [[(int(entries[0]), int(entries[1]))]], True
    if not entries:
        raise FlowCutError("visual holds no spans: give (start, length), or one for each prompt.")
    return [_read_prompt(entry) for entry in entries], False


def _read_prompt(entry: Any) -> list[tuple[int, int]]:
    pairs = [] if isinstance(entry, str) or not isinstance(entry, Sequence) else list(entry)
    if len(pairs) == 2 and all(is_whole(part) for part in pairs):
        pairs = [pairs]
    elif not isinstance(entry, Sequence) or not all(_is_pair(pair) for pair in pairs):
        raise FlowCutError(f"visual holds {entry!r}: give a (start, length) of whole numbers for each span.")
    return [(int(start), int(length)) for start, length in pairs]


def _is_pair(pair: Any) -> bool:
    return isinstance(pair, Sequence) and len(pair) == 2 and all(is_whole(part) for part in pair)


def check_spans(spans: list[tuple[int, int]], prompt: int, live: np.ndarray, end: int) -> None:
    """Spans must lie inside the prompt, apart from each other, on live rows, before the end of the instruction."""
    taken = 0
    for start, length in sorted(spans):
        if start < taken or length < 1 or start + length > len(live):
            raise FlowCutError(
                f"The visual span of prompt {prompt} is (start {start}, length {length}), and the prompt has "
                f"{len(live)} positions: spans must lie inside it and not overlap."
            )
        if not live[start : start + length].all():
            raise FlowCutError(f"The visual span (start {start}, length {length}) of prompt {prompt} covers padding.")
        taken = start + length
    if not max(taken, 1) <= end <= len(live):
        raise FlowCutError(
            f"instruction_end is {end} for prompt {prompt}: it must lie from {max(taken, 1)}, after the visual tokens, "
            f"to {len(live)}, the prompt's length."
        )
