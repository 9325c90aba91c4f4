"""Where the tokens of encoded media lie in their prompts, for a cut inside the language model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel

from flowcut.decoder.spans import Aim
from flowcut.errors import InvalidCut
from flowcut.families.family import EncodedMedium, Family, is_visual
from flowcut.generation.outside_encoder import leading_separators
from flowcut.records.vision import PADDING_ID


def aim_at(
    family: Family, model: PreTrainedModel, media: Sequence[EncodedMedium], prepared: Mapping[str, Any]
) -> tuple[Aim, np.ndarray]:
    """A span for each medium, and int64 [spans, tokens, 2], row and patch that each of its tokens comes from.

    Args:
        family: of the model.
        model: the model.
        media: pictures or videos, in the order of the prompts.
        prepared: the model's inputs, with as many placeholders as the media have tokens.

    Raises:
        InvalidCut: a medium's tokens lie in several runs, with text between them.
    """
    input_ids, mask = prepared["input_ids"], prepared.get("attention_mask")
    places, begin = is_visual(family, model, input_ids).nonzero().tolist(), 0
    spans: list[list[tuple[int, int]]] = [[] for _ in input_ids]
    sources = []
    for medium in media:
        count = len(medium.features)
        if count:
            (prompt, start), lead = places[begin], leading_separators(medium)
            if places[begin + count - 1] != [prompt, start + count - 1]:
                raise InvalidCut(
                    f"{family.name} puts text between the visual tokens of one picture or video, and a cut in the "
                    "language model takes one run of them: choose a method that cuts before it, behind the projector."
                )
            spans[prompt].append((start + lead, count - lead))
            sources.append(medium.sources[lead:].cpu())
        begin += count
    live = torch.ones_like(input_ids) if mask is None else mask
    ends = [int(row.nonzero()[-1]) + 1 for row in live]
    padded = nn.utils.rnn.pad_sequence(sources, batch_first=True, padding_value=PADDING_ID)
    return Aim.at(spans, ends, family.blocks(model, prepared)), padded.numpy()
