"""Encoded media on their way from `Session.prepare` to the pass of the model that reads them."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPooling

from flowcut.decoder.spans import Aim
from flowcut.errors import FlowCutError

NOT_PREPARED = (
    "This model is inside flowcut.prune, and these pictures were not prepared, so they would not be cut: call "
    "inputs = session.prepare(processor(...)) and then generate(**inputs), which a transformers pipeline does not do."
)
IN_PIECES = (
    "This prompt is read in pieces (prefill_chunk_size), and a cut inside the language model needs it whole: give "
    "generate prefill_chunk_size=None, or set it so in the model's generation_config."
)


@dataclass(frozen=True, eq=False)
class Handover:
    """What a prepared prompt says of itself to the pass that reads it."""

    session: weakref.ref[Any]
    """The session that prepared it; inputs that somebody keeps do not keep the model."""
    aim: Aim | None = None
    """Where its visual tokens are, for a cut inside the language model; None: there is none."""
    sources: np.ndarray | None = None
    """int64 [spans, tokens, 2], as `LanguageRecord.sources`, for such a cut."""

    @property
    def is_open(self) -> bool:
        """Whether the session's `with` is in force."""
        session = self.session()
        return session is not None and session.in_force

    def check(self) -> None:
        """
        Raises:
            FlowCutError: it is to be cut inside the language model, and the `with` in which that is done was left.
        """
        if self.aim is not None and not self.is_open:
            raise FlowCutError(
                "These inputs were prepared for a cut inside the language model, and the with was left: "
                "use them inside it."
            )


class PreparedFeatures(BaseModelOutputWithPooling):  # type: ignore[misc]  # mypy does not read transformers
    """What the model takes for its own encoder's output; whoever reads the features is checked first.

    So a prompt that was prepared for a cut inside the language model is not read without it, after the `with`, when no
    hook of ours is left that could say so.
    """

    handover: Handover | None = None
    """None on a piece that transformers cut out of it, as chunked prefill does."""
    deepstack_features: list[tuple[Tensor, ...]] | None = None
    """By decoder layer, what is added to the tokens of each medium behind it."""

    @classmethod
    def of(cls, features: Any, handover: Handover, extras: Mapping[str, Any]) -> PreparedFeatures:
        """Features of all media, as the model wants them, and what else it takes of its encoder's output."""
        made = cls(pooler_output=features)
        for name, value in extras.items():
            setattr(made, name, value)
        made.handover = handover
        return made

    def __getattribute__(self, name: str) -> Any:
        if name == "pooler_output":
            handover = self.__dict__.get("handover")  # none yet while it is made, or copied by another library
            if handover is not None:
                handover.check()
        return super().__getattribute__(name)


def is_piece(arguments: Mapping[str, Any]) -> bool:
    """Whether the model is given a piece of what was prepared, as it is when a prompt is read in chunks."""
    encoded = (arguments.get("mm_encoder_outputs") or {}).values()
    return any(isinstance(one, PreparedFeatures) and one.handover is None for one in encoded)


def handover_of(arguments: Mapping[str, Any]) -> Handover | None:
    """Of the arguments of a model's forward pass; None: they were not prepared by a session."""
    encoded = (arguments.get("mm_encoder_outputs") or {}).values()
    return next((one.handover for one in encoded if isinstance(one, PreparedFeatures)), None)
