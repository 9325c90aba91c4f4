"""PaliGemma and PaliGemma 2: a SigLIP tower, each patch one token, and a prompt that is read in both directions.

The prompt has no roles: the picture's placeholders, the first token, then a task such as `answer en <question>`. Models
of the kind `mix` and `pt` were trained on these tasks (Beyer et al. 2024, arXiv 2407.07726, section 3.2.4). There is no
released code of FlowCut for these models.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from flowcut.criteria.stages import STAGES, Stage
from flowcut.errors import InvalidQuestion
from flowcut.families.family import IMAGE, MediaKind
from flowcut.families.one_grid import OneGrid
from flowcut.published import PUBLISHED

TASK = re.compile(r"(answer|question|caption|cap|describe) [a-z]{2}\b|(detect|segment) \S|ocr$")
"""What a question begins with that is a task already, in the words that the models were trained on."""


class PaliGemma(OneGrid):
    """The family of `PaliGemmaForConditionalGeneration`."""

    name = "PaliGemma"
    model_class = "PaliGemmaForConditionalGeneration"
    description = "PaliGemma and PaliGemma 2 (PaliGemmaForConditionalGeneration)"
    towers: tuple[str, ...] = ("siglip_vision_model",)
    published = PUBLISHED["paligemma"]
    media: tuple[MediaKind, ...] = (MediaKind("image", ("pixel_values",), stacked=True),)
    stages: tuple[Stage, ...] = tuple(STAGES.values())

    def feature_layer(self, model: PreTrainedModel) -> int | list[int]:
        """The projector reads the last layer."""
        return -1

    def prompt(self, processor: Any, question: str, system: str | None, kind: MediaKind = IMAGE) -> str:
        """A task as it is, any other question as `answer en`; the processor adds the first token and the line's end.

        Raises:
            InvalidQuestion: there is a system prompt, for which these models have no place.
        """
        if system is not None:
            raise InvalidQuestion("PaliGemma's prompt has no place for a system prompt: leave it out.")
        task = question if TASK.match(question) else f"answer en {question}"
        return f"{self.place_text(processor, kind)}{task}"

    def blocks(self, model: PreTrainedModel, prepared: Mapping[str, Any]) -> Tensor | None:
        """All tokens of a prompt are one block; those of a suffix, as in training, are causal."""
        types: Tensor | None = prepared.get("token_type_ids")
        return None if types is None else (types != 0).long().neg()

    def pairs_ahead(self, tokens: int, visual: Sequence[int]) -> int:
        """The whole prompt is read in both directions."""
        return tokens * (tokens - 1) // 2
