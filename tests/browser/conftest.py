"""The real page in real Chromium: one server for all browser tests, a fresh visitor for each."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Request, expect, sync_playwright

from benchmarks.serving import START_SECONDS, Served, free_port, serving

ROOT = Path(__file__).resolve().parents[2]
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--use-fake-device-for-media-stream",  # a camera that shows a test picture, and no question whether it may
    "--use-fake-ui-for-media-stream",
]
IDLE = """() => { const a = document.querySelector('[data-testid="stApp"]');
  return a && a.getAttribute('data-test-script-state') === 'notRunning'; }"""
FLOWCUT = Path(sys.executable).parent / "flowcut"
"""The command, beside the Python that runs the tests."""
ANSWER_SECONDS = 240
"""A machine with one slow core, still loading PyTorch, must make it too."""

expect.set_options(timeout=30_000)


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The app on a free port of this machine, started as README says; its log must hold no traceback in the end."""
    port, log = free_port(), tmp_path_factory.mktemp("server") / "log.txt"
    with serving([str(FLOWCUT), "app", "--port", str(port)], ROOT, log, port) as started:
        yield started


@pytest.fixture(scope="session")
def server(served: Served) -> str:
    """Its address."""
    return served.url


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Debian's Chromium; `make test` installs it."""
    executable = shutil.which("chromium")
    assert executable, "Chromium is missing: run `make chromium`."
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=executable, args=FLAGS)
        yield opened
        opened.close()


@pytest.fixture
def visit(browser: Browser, server: str) -> Iterator[Callable[..., Page]]:
    """Open the page as a new visitor; whatever the test does, no visitor may see an error or call outside."""
    with visitors(browser, server) as open_page:
        yield open_page


@contextmanager
def visitors(browser: Browser, server: str) -> Iterator[Callable[..., Page]]:
    """What opens the page of a server as a new visitor; in the end no visitor has seen an error or called outside."""
    contexts: list[BrowserContext] = []
    complaints: list[str] = []

    def open_page(path: str = "", **options: Any) -> Page:
        settings = {"viewport": {"width": 1280, "height": 900}, **options}
        contexts.append(browser.new_context(**settings))
        page = contexts[-1].new_page()
        _listen(page, urlparse(server).netloc, complaints)
        page.goto(server + path)
        page.wait_for_selector('[data-testid="stApp"]', timeout=START_SECONDS * 1000)
        expect(page.get_by_test_id("answers").or_(page.get_by_role("radiogroup")).first).to_be_visible(
            timeout=START_SECONDS * 1000
        )
        idle(page)
        return page

    yield open_page
    for context in contexts:
        for page in context.pages:
            complaints += [box.inner_text() for box in page.query_selector_all('[data-testid="stException"]')]
        context.close()
    assert complaints == []


def _listen(page: Page, host: str, complaints: list[str]) -> None:
    def on_console(message: ConsoleMessage) -> None:
        if message.type == "error" and not _is_probe(message.location["url"]):
            complaints.append(f"{message.text} {message.location['url']}")

    def check(request: Request) -> None:
        if request.url.startswith("http") and urlparse(request.url).netloc != host:
            complaints.append(f"outside: {request.url}")

    def on_request_failed(request: Request) -> None:
        if not _is_called_off(request):
            complaints.append(f"failed: {request.url} {request.failure}")

    page.on("console", on_console)
    page.on("pageerror", lambda error: complaints.append(error.stack or str(error)))
    page.on("request", check)
    page.on("requestfailed", on_request_failed)


def _is_probe(url: str) -> bool:
    """Whether Streamlit's own script looks for its server below a page's address, before it looks where it is."""
    return urlparse(url).path.endswith(("/_stcore/health", "/_stcore/host-config"))


def _is_called_off(request: Request) -> bool:
    """Whether the browser itself ended a fetch because the element or the page that wanted it is gone.

    A reload does so to every picture still on its way. An upload that is cut off is something lost, and counts.
    """
    return request.method == "GET" and request.failure == "net::ERR_ABORTED"


def idle(page: Page) -> None:
    """Wait until the script is not running, and has not begun again a moment later."""
    page.wait_for_timeout(200)
    page.wait_for_function(IDLE, timeout=ANSWER_SECONDS * 1000)


def ask(page: Page, question: str) -> None:
    """Type a question, press Run and wait for its answers."""
    page.get_by_role("textbox", name="Question").fill(question)
    page.get_by_role("button", name=re.compile(r"Run$")).click()
    wait_for_answers(page, question)


def wait_for_answers(page: Page, question: str | re.Pattern[str]) -> None:
    """Wait until the answers on screen are finished and belong to this question."""
    expect(page.get_by_test_id("question")).to_have_text(question, timeout=ANSWER_SECONDS * 1000)
    idle(page)  # before that, the last answers may still be there beside the new question
    expect(page.get_by_test_id("growing-answers")).to_have_count(0, timeout=ANSWER_SECONDS * 1000)
    idle(page)
    expect(page.get_by_test_id("answers")).to_be_visible()
