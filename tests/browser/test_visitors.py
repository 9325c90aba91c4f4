"""What real visitors leave behind on a real server: memory, and work for nobody; at length in benchmarks/visitors."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect

from benchmarks.serving import Served, free_port, serving
from benchmarks.visitors import visit
from flowcut_lens.app.jobs.visitors import GRACE
from tests.browser.conftest import ANSWER_SECONDS, FLOWCUT, visitors
from tests.browser.test_compare import compare, finished

pytestmark = pytest.mark.timeout(900)
MOST_MEGABYTES = 110
"""That eight visitors may leave: without an end of their sessions it was 360."""
QUIET = 0.15
"""Share of a core that an idle server with nobody on it may use."""


@pytest.fixture(scope="module")
def own_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server that no other test uses."""
    port, folder = free_port(), tmp_path_factory.mktemp("server")
    with serving([str(FLOWCUT), "app", "--port", str(port)], folder, folder / "log.txt", port) as served:
        yield served


def load(served: Served, seconds: float = 4.0) -> float:
    """Share of a core that the server uses now."""
    before = served.busy_seconds()
    time.sleep(seconds)
    return (served.busy_seconds() - before) / seconds


def test_what_visitors_bring_is_given_back_when_they_leave(own_server: Served, browser: Browser) -> None:
    for seed in range(3):
        visit(browser, own_server, seed)
    time.sleep(GRACE + 5)
    before = own_server.resident_bytes()
    for seed in range(8):
        visit(browser, own_server, 100 + seed)
    time.sleep(GRACE + 5)
    grown = (own_server.resident_bytes() - before) / 1e6
    assert grown < MOST_MEGABYTES


def choose_single_patches(page: Page) -> None:
    """The reading that takes longest."""
    for name in ("Single blocks", "one by one"):
        page.get_by_role("radio", name=name).or_(page.get_by_role("button", name=name)).first.click()


def test_a_study_of_visitors_who_left_stops_and_keeps_what_it_found(own_server: Served, browser: Browser) -> None:
    with visitors(browser, own_server.url) as open_page:
        page = open_page()
        compare(page, "Causal check")
        finished(page)
        begin = page.get_by_role("button", name="Take patches away")
        choose_single_patches(page)
        begin.click(timeout=ANSWER_SECONDS * 1000)
        expect(page.get_by_role("button", name=re.compile("Stop"))).to_be_visible(timeout=ANSWER_SECONDS * 1000)
        page.context.close()
        time.sleep(GRACE + 5)
        assert load(own_server) < QUIET, "the server still works for nobody"
        back = open_page("/compare?section=causal")
        compare(back, "Causal check")
        choose_single_patches(back)
        told = back.get_by_text(re.compile("as everyone who watched had left"))
        expect(told).to_be_visible(timeout=ANSWER_SECONDS * 1000)
        expect(back.get_by_role("button", name="Begin again")).to_be_visible()
