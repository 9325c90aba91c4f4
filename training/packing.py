"""Many questions about one picture in one sequence.

The picture's tokens are most of a prompt. So a training sequence is one prefix (begin, "USER: ", the picture's
tokens) and behind it several question-and-answer segments, each of which sees the prefix and itself alone and
counts its positions on from the prefix: to the model every segment looks like a conversation of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedTokenizerFast

from flowcut_lens.scenes.questions import KINDS, sample
from flowcut_lens.scenes.world import SceneObject
from training.cache import OBJECT_FIELDS
from training.objects import from_table
from training.text import PROMPT_END, PROMPT_START, as_people_type

PREFIX, PADDING = 0, -1

KIND_WEIGHTS = {"relation": 3.0, "counting": 2.5, "comparison": 2.0, "logic": 1.5, "small print": 2.0, "chart": 2.0}
"""How often a kind of question is drawn; others count 1. These need the most practice: two objects at once, or all, or
what few scenes have."""


@dataclass(frozen=True)
class Segment:
    """One question with its answer, as token ids."""

    prompt: list[int]
    answer: list[int]
    kind: str
    mentions: tuple[tuple[int, tuple[int, ...]], ...] = ()
    """Last token (in `prompt`) of each name in the question, and the objects it means."""


@dataclass(frozen=True)
class Packed:
    """A batch of packed sequences. The first columns belong to the prefix, image tokens among them."""

    ids: Tensor
    """int64 [B, L]; image places hold the padding id."""
    positions: Tensor
    """int64 [B, L]"""
    mask: Tensor
    """bool [B, 1, L, L], True where attention is allowed."""
    answer_rows: Tensor
    """int64 [A] flat indices (batch * L + column) whose next token belongs to an answer."""
    answer_ids: Tensor
    """int64 [A] that next token."""
    answer_segment: Tensor
    """int64 [A] running number of the segment, over the whole batch."""
    kinds: list[str]
    """Kind of question, by running segment number."""
    image_start: int
    mention_rows: Tensor
    """int64 [M] flat indices of the last tokens of names in the questions."""
    mention_counts: Tensor
    """int64 [M] how many objects each name means."""
    mention_objects: Tensor
    """float32 [M, 7] table row (training.cache.OBJECT_FIELDS) of the object meant, NaN unless it is one alone."""
    mention_before: Tensor
    """int64 [M] the name before it in the same question, as an index into these arrays; -1 if it is the first."""

    def to(self, device: torch.device) -> Packed:
        values: dict[str, Any] = {one.name: getattr(self, one.name) for one in fields(self)}
        for name, value in values.items():
            values[name] = value.to(device) if isinstance(value, Tensor) else value
        return Packed(**values)


class Packer:
    """Draws questions and packs them."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, seed: int) -> None:
        self.tokenizer, self.rng = tokenizer, np.random.default_rng(seed)
        self.kinds = [kind for kind in KINDS if kind != "describe"]
        weights = np.array([KIND_WEIGHTS.get(kind, 1.0) for kind in self.kinds])
        self.odds = weights / weights.sum()
        self.prefix = self._ids(PROMPT_START, first=True)
        self.end = self._ids(PROMPT_END)

    def _ids(self, text: str, first: bool = False) -> list[int]:
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return [self.tokenizer.bos_token_id, *ids] if first else ids

    def segments(self, objects: list[SceneObject], count: int) -> list[Segment]:
        """One description and `count` - 1 questions of other kinds, by KIND_WEIGHTS."""
        chosen = ["describe", *self.rng.choice(self.kinds, count - 1, p=self.odds).tolist()]
        found = [question for kind in chosen if (question := sample(objects, kind, self.rng)) is not None]
        return [self.segment(as_people_type(one.text, self.rng), one.answer, one.kind, one.mentions) for one in found]

    def segment(
        self, question: str, answer: str, kind: str, mentions: tuple[tuple[str, tuple[int, ...]], ...] = ()
    ) -> Segment:
        text = "\n" + question + PROMPT_END
        coded = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        ends = {stop: index for index, (_, stop) in enumerate(coded["offset_mapping"])}
        found, after = [], 0
        for name, ids in mentions:  # a misspelt name is not found, and not held to anything
            start = text.find(name, after)
            after = start + len(name) if start >= 0 else after
            if start >= 0 and after in ends:
                found.append((ends[after], ids))
        answer_ids = [*self._ids(" " + answer), self.tokenizer.eos_token_id]
        return Segment(coded["input_ids"], answer_ids, kind, tuple(found))

    def pack(self, tables: Tensor, image_tokens: int, count: int) -> Packed:
        """Draw and pack `count` questions on each scene ([B, 11, 7] object tables) behind `image_tokens` places."""
        rows = [self.segments(from_table(table), count) for table in tables.cpu().numpy()]
        return self.pack_segments(rows, image_tokens, tables.cpu()).to(tables.device)

    def pack_segments(self, rows: list[list[Segment]], image_tokens: int, tables: Tensor | None = None) -> Packed:
        """Pack each row's segments behind one prefix with `image_tokens` places for the picture."""
        tables = torch.full((len(rows), 1, len(OBJECT_FIELDS)), torch.nan) if tables is None else tables
        prefix = len(self.prefix) + image_tokens
        length = prefix + max(sum(len(s.prompt) + len(s.answer) for s in row) for row in rows)
        ids = torch.full((len(rows), length), self.tokenizer.pad_token_id)
        positions, owner = torch.zeros_like(ids), torch.full_like(ids, PADDING)
        ids[:, : len(self.prefix)] = torch.tensor(self.prefix)
        positions[:, :prefix], owner[:, :prefix] = torch.arange(prefix), PREFIX
        answer_rows: list[int] = []
        answer_ids: list[int] = []
        answer_segment: list[int] = []
        kinds: list[str] = []
        mentioned: list[tuple[int, int, int]] = []
        meant: list[Tensor] = [torch.empty(0, len(OBJECT_FIELDS))]
        for row, segments in enumerate(rows):
            column = prefix
            for number, segment in enumerate(segments, start=1):
                tokens = segment.prompt + segment.answer
                stop = column + len(tokens)
                ids[row, column:stop] = torch.tensor(tokens)
                positions[row, column:stop] = torch.arange(prefix, prefix + len(tokens))
                owner[row, column:stop] = number
                first = row * length + column + len(segment.prompt) - 1
                answer_rows.extend(range(first, first + len(segment.answer)))
                answer_ids.extend(segment.answer)
                answer_segment.extend([len(kinds)] * len(segment.answer))
                kinds.append(segment.kind)
                for order, (place, ids_meant) in enumerate(segment.mentions):
                    before = len(mentioned) - 1 if order else -1
                    mentioned.append((row * length + column + place, len(ids_meant), before))
                    alone = (
                        tables[row, ids_meant[0]] if len(ids_meant) == 1 else torch.full_like(tables[row, 0], torch.nan)
                    )
                    meant.append(alone[None])
                column = stop
        return Packed(
            ids,
            positions,
            self._mask(owner),
            torch.tensor(answer_rows),
            torch.tensor(answer_ids),
            torch.tensor(answer_segment),
            kinds,
            len(self.prefix),
            torch.tensor([place for place, _, _ in mentioned], dtype=torch.long),
            torch.tensor([count for _, count, _ in mentioned], dtype=torch.long),
            torch.cat(meant),
            torch.tensor([before for _, _, before in mentioned], dtype=torch.long),
        )

    @staticmethod
    def _mask(owner: Tensor) -> Tensor:
        length = owner.shape[1]
        causal = torch.ones(length, length, dtype=torch.bool).tril()
        same = owner[:, :, None] == owner[:, None, :]
        # A padding row sees itself and other padding: no row may be empty, or its softmax is not a number.
        return ((same | (owner[:, None, :] == PREFIX)) & causal)[:, None]


@dataclass(frozen=True)
class Marked:
    """How the answers of a packed batch came out."""

    loss: Tensor
    by_segment: list[bool]
    """Whether the whole answer is right, by running segment number."""
    by_kind: dict[str, float]
    """Share of whole answers right."""


def answer_loss(logits: Tensor, packed: Packed) -> Marked:
    """Loss of the answers' tokens, and which whole answers are right.

    Each answer weighs the square root of its length, so that descriptions do not drown the short answers. With teacher
    forcing, "every token is the most likely one" is the same as "greedy decoding gives this answer".
    """
    per_token = F.cross_entropy(logits, packed.answer_ids, reduction="none")
    lengths = torch.bincount(packed.answer_segment, minlength=len(packed.kinds)).clamp(min=1)
    weight = lengths.float().rsqrt()[packed.answer_segment]
    loss = (per_token * weight).sum() / weight.sum()
    wrong = (logits.argmax(-1) != packed.answer_ids).long()
    errors = torch.zeros(len(packed.kinds), dtype=torch.long).index_add_(0, packed.answer_segment, wrong)
    right: dict[str, list[float]] = {}
    by_segment = [count == 0 for count in errors.tolist()]
    for kind, is_right in zip(packed.kinds, by_segment, strict=True):
        right.setdefault(kind, []).append(float(is_right))
    return Marked(loss, by_segment, {kind: float(np.mean(values)) for kind, values in right.items()})
