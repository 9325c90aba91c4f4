"""Where a method cuts: the four stages on the way from a picture to the answer, in this order."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from flowcut.criteria.evidence import DecoderEvidence, Evidence


@dataclass(frozen=True, eq=False)
class Stage:
    """One stage. There is one object of each, so that stages are compared with `is`."""

    name: str
    """As `Method.stage` names it."""
    place: str
    """In words, after "cuts"."""
    evidence: type[Any] | None = None
    """What its methods are given; None: they look at nothing, and none can be registered."""
    remark: str = ""
    """What a reader of the encoder's record must know of a cut at this stage."""

    def gathered(self) -> tuple[str, ...]:
        """Names of the evidence that its methods may need."""
        return () if self.evidence is None else tuple(one.name for one in fields(self.evidence) if one.default is None)


PICTURE = Stage("picture", "the picture before the encoder")
ENCODER = Stage("encoder", "in the vision encoder", Evidence)
PROJECTOR = Stage(
    "projector",
    "behind the projector",
    Evidence,
    "The encoder was not cut: the method chooses among the tokens behind the projector.",
)
DECODER = Stage(
    "decoder",
    "in the language model",
    DecoderEvidence,
    "The encoder was not cut: the method cuts inside the language model.",
)
STAGES: dict[str, Stage] = {stage.name: stage for stage in (PICTURE, ENCODER, PROJECTOR, DECODER)}
"""By name, in the order in which a picture comes through them."""
