"""What is said while a model is fetched from the Hugging Face hub, and to whom."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tqdm.std import tqdm

HUB_SECONDS = 10
"""How long the hub may take to answer."""
_KNOWN, _UNKNOWN = "{desc} |{bar:20}| {percentage:3.0f}% [{elapsed}]", "{desc} [{elapsed}]"
Progress = Callable[[float | None, str], None]
"""Called with a fraction from 0 to 1 (None: not known) and a few words on what is being done."""


def report_to_nobody(fraction: float | None, text: str) -> None:
    """What is called where no `progress` was given."""


class SilentBar(tqdm):  # type: ignore[misc]  # tqdm has no types
    """A progress bar for the hub's client that draws nothing."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **{**options, "file": io.StringIO()})


@contextmanager
def terminal_bar() -> Iterator[Progress]:
    """Reports are drawn as one line on stderr, for those who ask for a model in a notebook or a script."""
    with tqdm(total=1.0, bar_format=_UNKNOWN, leave=False) as bar:

        def draw(fraction: float | None, text: str) -> None:
            bar.bar_format, bar.n = _UNKNOWN if fraction is None else _KNOWN, fraction or 0.0
            bar.set_description_str(text)

        yield draw
