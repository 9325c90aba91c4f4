"""A setting of a method, such as VisPruner's share of important tokens: what it is called, and what it may be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any

from flowcut.errors import InvalidCut

SettingValue = bool | float
YES, NO = ("true", "on", "yes"), ("false", "off", "no")
"""How a switch is written on the command line and in a page's address."""


@dataclass(frozen=True)
class Setting:
    """One setting: a switch where its usual value is True or False, else a number from 0 to 1."""

    name: str
    """In Python, on the command line, and in a cut's JSON."""
    usual: SettingValue
    """Where nothing is said: as the method's release has it, if it can be had."""
    meaning: str
    """What it does, in one line."""

    @property
    def is_switch(self) -> bool:
        """Whether it is on or off, not a number."""
        return isinstance(self.usual, bool)

    @property
    def label(self) -> str:
        """The name in words."""
        return self.name.replace("_", " ")

    def checked(self, value: Any) -> SettingValue:
        """The value, if it is allowed.

        Raises:
            InvalidCut: (a ValueError) it is not.
        """
        if self.is_switch:
            if not isinstance(value, bool):
                raise InvalidCut(f"{self.name} is {value!r}: it must be True or False.")
            return value
        if isinstance(value, bool) or not isinstance(value, Real) or not 0 <= float(value) <= 1:
            raise InvalidCut(f"{self.name} is {value!r}: it must be a number from 0 to 1.")
        return float(value)

    def read(self, text: str) -> SettingValue:
        """The value that a text says, `0.75` or `on`.

        Raises:
            InvalidCut: (a ValueError) it says none that is allowed.
        """
        if self.is_switch:
            word = text.strip().lower()
            return self.checked(word in YES if word in YES + NO else text)
        try:
            number = float(text)
        except ValueError:
            return self.checked(text)
        return self.checked(number)

    def said(self, value: SettingValue) -> str:
        """The value as a title names it: `important share 0.5`, `recycling`, `no recycling`."""
        if self.is_switch:
            return self.label if value else f"no {self.label}"
        return f"{self.label} {value:g}"

    def written(self, value: SettingValue) -> str:
        """What `read` reads: `0.75`, `on`."""
        if self.is_switch:
            return YES[1] if value else NO[1]
        return f"{value:g}"


def checked_settings(method: str, declared: tuple[Setting, ...], given: Any) -> tuple[tuple[str, SettingValue], ...]:
    """Every setting of a method with its value, in the order in which they are declared.

    Args:
        method: its name, for the sentence of an error.
        declared: its settings.
        given: a mapping of names to values, or pairs; what is left out is as usual.

    Raises:
        InvalidCut: (a ValueError) a name that the method does not have, or a value that is not allowed.
    """
    try:
        values = dict(given)
    except (TypeError, ValueError) as error:
        raise InvalidCut(f"settings is {given!r}: give a mapping of names to values.") from error
    names = [one.name for one in declared]
    strange = [name for name in values if name not in names]
    if strange:
        has = f"it has {', '.join(names)}" if names else "it has none of its own"
        raise InvalidCut(f"The method {method!r} has no setting {strange[0]!r}: {has}.")
    return tuple((one.name, one.checked(values.get(one.name, one.usual))) for one in declared)


def read_settings(method: str, declared: tuple[Setting, ...], texts: Mapping[str, str]) -> dict[str, SettingValue]:
    """Values from texts, as they come from a command line or an address.

    Raises:
        InvalidCut: (a ValueError) as for `checked_settings`.
    """
    by_name = {one.name: one for one in declared}
    known = {name: by_name[name].read(text) for name, text in texts.items() if name in by_name}
    checked_settings(method, declared, {**known, **{name: text for name, text in texts.items() if name not in by_name}})
    return known
