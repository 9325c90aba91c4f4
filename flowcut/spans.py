"""Where the visual tokens of a batch of prompts are: read from what a caller gives, and checked."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import Any

import numpy as np
from torch import Tensor

from flowcut.errors import FlowCutError

Spans = list[list[tuple[int, int]]]
"""Per prompt, (start, length) of each picture's run of visual tokens."""


def read_spans(visual: Any) -> tuple[Spans, bool]:
    """Spans per prompt, and whether they are one for all prompts."""
    entries = visual.tolist() if isinstance(visual, Tensor | np.ndarray) else list(visual)
    if len(entries) == 2 and all(_is_whole(entry) for entry in entries):
        return [[(int(entries[0]), int(entries[1]))]], True
    if not entries:
        raise FlowCutError("visual holds no spans: give (start, length), or one for each prompt.")
    return [_read_prompt(entry) for entry in entries], False


def _read_prompt(entry: Any) -> list[tuple[int, int]]:
    pairs = [] if isinstance(entry, str) or not isinstance(entry, Sequence) else list(entry)
    if len(pairs) == 2 and all(_is_whole(part) for part in pairs):
        pairs = [pairs]
    elif not isinstance(entry, Sequence) or not all(_is_pair(pair) for pair in pairs):
        raise FlowCutError(f"visual holds {entry!r}: give a (start, length) of whole numbers for each span.")
    return [(int(start), int(length)) for start, length in pairs]


def _is_pair(pair: Any) -> bool:
    return isinstance(pair, Sequence) and len(pair) == 2 and all(_is_whole(part) for part in pair)


def _is_whole(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


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
