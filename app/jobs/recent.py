"""Values that were used last: a dict that forgets, safe between threads."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

Value = TypeVar("Value")


class Recent(Generic[Value]):
    """Forgets what was not used for longest, so that what it holds weighs no more than its limit.

    The value that was put in last stays, whatever it weighs.
    """

    def __init__(self, limit: int, score_layer: Callable[[Value], int] = lambda value: 1) -> None:
        """
        Args:
            limit: how many values are held, or how much all may weigh.
            weigh: what one weighs, always the same.
        """
        self._limit = limit
        self._weigh = score_layer
        self._values: OrderedDict[str, Value] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def weight(self) -> int:
        """Of all that is held."""
        return sum(self._weigh(value) for value in self._values.values())

    def get(self, key: str) -> Value | None:
        """The value, if it is still held."""
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
            return self._values.get(key)

    def put(self, key: str, value: Value) -> None:
        """Hold a value."""
        with self._lock:
            self._values[key] = value
            self._values.move_to_end(key)
            while len(self._values) > 1 and self.weight > self._limit:
                self._values.popitem(last=False)

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._values.clear()
