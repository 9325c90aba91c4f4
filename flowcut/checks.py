"""Checks of settings that several places share. Pure Python, no torch."""

from __future__ import annotations

from numbers import Integral
from typing import Any

from flowcut.errors import FlowCutError


def is_whole(value: Any) -> bool:
    """Whether this is a whole number, numpy's included; True and False are none."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def whole_number(name: str, value: Any, least: int | None = None, error: type[FlowCutError] = FlowCutError) -> int:
    """The value as an int.

    Args:
        name: what the sentence calls the setting.
        least: the smallest that is allowed; None: any.

    Raises:
        FlowCutError: (or the `error` that is given) one sentence: it is no whole number, or too small.
    """
    if not is_whole(value) or (least is not None and value < least):
        wanted = "a whole number" + ("" if least is None else f" of at least {least}")
        raise error(f"{name} is {value!r}: it must be {wanted}.")
    return int(value)
