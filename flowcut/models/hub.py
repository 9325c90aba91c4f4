"""The Hugging Face hub: whether it answers, and how far a download is."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError
from tqdm.std import tqdm

HUB_SECONDS = 10
"""How long the hub may take to answer."""
Progress = Callable[[float | None, str], None]
"""Called with a fraction from 0 to 1 (None: not known) and a few words on what is being done."""


def report_to_nobody(fraction: float | None, text: str) -> None:
    """What is called where no `progress` was given."""


def hub_answers(name: str) -> bool:
    """Whether the hub can be reached; asked once, since its download functions would try again for half a minute."""
    try:
        HfApi().model_info(name, timeout=HUB_SECONDS)
    except HfHubHTTPError:
        raise  # it answered: no such model, no access ...
    except Exception:  # no network, or told to stay offline: of the kinds of requests, httpx or httpx2, by its version
        return False  # what was downloaded before may still do
    return True


def reporting_bar(report: Progress) -> type[tqdm] | None:
    """A progress bar for the hub's client that draws nothing and reports instead; None, the hub's own, for nobody."""
    if report is report_to_nobody:
        return None

    class ReportingBar(tqdm):  # type: ignore[misc]  # tqdm has no types
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **{**options, "file": io.StringIO(), "mininterval": 0.1})

        def display(self, *args: Any, **options: Any) -> None:
            if self.unit == "B" and self.total:
                done, total = self.n / 1e9, self.total / 1e9
                report(min(done / total, 1.0), f"Downloading {done:.1f} of {total:.1f} GB")

    return ReportingBar
