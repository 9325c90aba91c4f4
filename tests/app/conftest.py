"""The page as Streamlit runs it, without a browser, and what people do on it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from flowcut_lens.app.media.comparison import Comparison

MAIN = Path(__file__).resolve().parents[2] / "app" / "main.py"
SECONDS = 120


@pytest.fixture
def page() -> Iterator[AppTest]:
    """A new visitor's page."""
    test = AppTest.from_file(str(MAIN), default_timeout=SECONDS).run()
    yield settled(test)
    assert not test.exception


def settled(page: AppTest) -> AppTest:
    """Look again, as the page does by itself, until nothing is being answered."""
    deadline = time.monotonic() + SECONDS
    while page.session_state.job is not None:
        assert time.monotonic() < deadline, page.session_state.job.phase
        time.sleep(0.1)
        page.run()
    assert not page.exception
    return page


def shown(page: AppTest) -> Comparison:
    found = page.session_state.comparison
    assert isinstance(found, Comparison)
    return found


def run(page: AppTest) -> AppTest:
    page.button("run").click().run()
    return settled(page)


def errors(page: AppTest) -> list[str]:
    return [box.value for box in page.error]
