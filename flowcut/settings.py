"""How an answer is generated: one set of settings for library, command line and app, checked once. No torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, TypedDict

from flowcut.checks import whole_number
from flowcut.errors import FlowCutError

MOST_SEEDS = 2**63


class GenerationOptions(TypedDict, total=False):
    """The settings of `Generation` as keyword arguments."""

    max_new_tokens: int
    do_sample: bool
    temperature: float | None
    top_p: float | None
    system: str | None
    seed: int | None


@dataclass(frozen=True)
class Generation:
    """How to generate, as transformers names it; None leaves the model's own setting.

    Raises:
        FlowCutError: (a ValueError) one sentence for a setting that cannot be used.
    """

    max_new_tokens: int = 128
    do_sample: bool = False
    temperature: float | None = None
    """Used when sampling only; so is `top_p`."""
    top_p: float | None = None
    system: str | None = None
    """A system prompt, if the model's template has a place for one."""
    seed: int | None = None
    """Set before sampling; None leaves the process's random state alone."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "max_new_tokens", whole_number("max_new_tokens", self.max_new_tokens, least=1))
        if self.temperature is not None and not 0 < _number(self.temperature) < math.inf:
            raise FlowCutError(f"temperature is {self.temperature!r}: it must be a number above 0.")
        if self.top_p is not None and not 0 < _number(self.top_p) <= 1:
            raise FlowCutError(f"top_p is {self.top_p!r}: it must be a number above 0 and at most 1.")
        if self.seed is not None:
            object.__setattr__(self, "seed", whole_number("seed", self.seed, least=0))
            if self.seed >= MOST_SEEDS:
                raise FlowCutError(f"seed is {self.seed!r}: it must be below 2 to the power of 63.")

    def for_generate(self) -> dict[str, Any]:
        """The keyword arguments of `generate`; one beam, since tokens are listened to one by one."""
        wanted: dict[str, Any] = {"max_new_tokens": self.max_new_tokens, "do_sample": self.do_sample, "num_beams": 1}
        if self.do_sample:
            chosen = {"temperature": self.temperature, "top_p": self.top_p}
            wanted.update({name: value for name, value in chosen.items() if value is not None})
        return wanted

    def facts(self) -> dict[str, Any]:
        """What a run keeps of them (`Run.generation`)."""
        return {**self.for_generate(), "seed": self.seed, "system": self.system}

    @classmethod
    def from_facts(cls, facts: Mapping[str, Any]) -> Generation:
        """The settings that `facts()` described."""
        known = {field.name for field in fields(cls)}
        return cls(**{name: value for name, value in facts.items() if name in known})


def _number(value: Any) -> float:
    """The value where it is a number, else NaN, which no comparison lets through."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
