"""Visitors who come, bring pictures and leave: what is held of them meanwhile, and what stops when they are gone."""

from __future__ import annotations

import asyncio
import gc
import io
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
from PIL import Image
from streamlit.testing.v1 import AppTest

from benchmarks.visitors import photograph
from flowcut.media.picture import Picture, open_picture
from flowcut_lens.app.jobs import visitors
from flowcut_lens.app.jobs.runtime import Runtime
from flowcut_lens.app.jobs.studies import Studies, Study
from flowcut_lens.app.jobs.visitors import Visitor
from flowcut_lens.app.media import uploads
from flowcut_lens.app.media.uploads import Upload, forget_pixels
from tests.app.conftest import errors, run, settled, shown
from tests.app.test_runtime import order

SECONDS = 30
LARGE = 2_000_000
"""Pixels of a picture that counts as one: previews and figures are smaller."""


@pytest.fixture(scope="module")
def photo() -> bytes:
    return photograph(0)


def plain(colour: str, size: tuple[int, int]) -> bytes:
    """The file of a large picture."""
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, "PNG", compress_level=1)
    return file.getvalue()


def held(least: int = LARGE) -> int:
    """Large pictures that are decoded somewhere in this process, apart from those that may be let go of."""
    forget_pixels()
    gc.collect()
    found = [one for one in gc.get_objects() if isinstance(one, Image.Image)]
    return sum(one.width * one.height >= least for one in found)


def test_an_upload_is_the_picture_that_was_opened(photo: bytes) -> None:
    upload = Upload(photo)
    assert upload.open().image.tobytes() == open_picture(photo).image.tobytes()
    assert upload.open() is upload.open()
    assert Upload(bytes(photo)).open() is upload.open(), "two visitors with one picture share its pixels"
    before = upload.open().image.tobytes()
    forget_pixels()
    assert upload.open().image.tobytes() == before


def test_pixels_of_few_pictures_are_held() -> None:
    forget_pixels()
    files = [plain(colour, (5000, 4000)) for colour in ("red", "green")]  # of 60 MB each: 100 may be held
    pictures = [Upload(content).open() for content in files]
    assert Upload(files[1]).open() is pictures[1]
    assert Upload(files[0]).open() is not pictures[0]
    large = Upload(plain("blue", (7000, 5000)))
    assert large.open() is large.open(), "one that is larger than the limit is held alone"
    forget_pixels()


def test_an_upload_is_decoded_once_for_three_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[Upload] = []

    def without_memory(upload: Upload) -> Picture:
        decoded.append(upload)
        return open_picture(upload.content)

    monkeypatch.setattr(uploads, "_opened", without_memory)
    upload = Upload(photograph(5, (300, 200)))
    runtime = Runtime()
    try:
        for _ in range(2):  # the second time all three answers are known
            job = runtime.submit(replace(order(), source=upload))
            assert job.ended.wait(120)
            assert job.complete
            assert len(decoded) == 1
        assert job.answers[0].image_hash == open_picture(upload.content).hash
    finally:
        runtime.close()


def test_a_visitor_holds_no_pixels(page: AppTest, photo: bytes) -> None:
    """After an upload, a question about it, and another run of the page: the file and a preview, no more, anywhere."""
    before = held()
    page.number_input("max_new_tokens").set_value(4).run()
    page.file_uploader[0].set_value(("photo.jpg", photo, "image/jpeg")).run()
    settled(page)
    run(page)
    assert not errors(page)
    assert shown(page).full.image_size == (4000, 3000)
    page.run()
    wait_for(lambda: held() == before)  # figures may still be being drawn
    run(page)  # and everything still works when the pixels were let go of
    assert shown(page).picture.preview.size == (640, 480)


@pytest.fixture
def studies() -> Iterator[Studies]:
    made = Studies(lambda name, report: name, lambda: False, str)
    yield made
    made.close(SECONDS)


def steadily(model: Any, study: Study) -> Iterator[int]:
    for number in range(10**6):
        yield number
        time.sleep(0.005)


def left(visitor: Visitor) -> Visitor:
    visitor.gone.set()
    return visitor


def wait_for(happened: Any) -> None:
    deadline = time.monotonic() + SECONDS
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_study_that_nobody_watches_stops_and_keeps_what_it_found(studies: Studies) -> None:
    visitor = Visitor("a")
    study = studies.start("key", "model", steadily, visitor)
    wait_for(lambda: len(study.results) > 3)
    assert not study.ended.is_set()
    left(visitor)
    assert study.ended.wait(SECONDS)
    assert study.abandoned
    assert not study.complete
    assert len(study.results) > 3
    again = studies.start("key", "model", steadily, Visitor("b"))
    assert again is not study
    again.stop.set()
    assert again.ended.wait(SECONDS)
    assert not again.abandoned, "somebody stopped it"


def test_a_study_goes_on_as_long_as_somebody_watches(studies: Studies) -> None:
    first, second = Visitor("a"), Visitor("b")
    study = studies.start("key", "model", steadily, first)
    assert studies.start("key", "model", steadily, second) is study
    left(first)
    found = len(study.results)
    wait_for(lambda: len(study.results) > found + 3)
    assert not study.ended.is_set()
    left(second)
    assert study.ended.wait(SECONDS)
    unwatched = studies.start("other", "model", steadily)
    wait_for(lambda: len(unwatched.results) > 3)
    assert not unwatched.ended.is_set(), "one that a program began has no watchers to lose"
    unwatched.stop.set()
    assert unwatched.ended.wait(SECONDS)


def test_a_question_whose_visitor_left_is_not_answered() -> None:
    runtime = Runtime()
    try:
        gone = runtime.submit(order(), left(Visitor("a")))
        assert gone.ended.wait(120)
        assert not gone.answers
        assert gone.error is None
        stays = runtime.submit(order(), Visitor("b"))
        assert stays.ended.wait(120)
        assert stays.complete
    finally:
        runtime.close()


class Server:
    """Streamlit's runtime as far as visitors know it."""

    def __init__(self) -> None:
        self.connected: set[str] = set()
        self.closed: list[str] = []

    def is_active_session(self, session: str) -> bool:
        return session in self.connected

    def close_session(self, session: str) -> None:
        self.closed.append(session)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    made = Server()
    monkeypatch.setattr(visitors.server, "exists", lambda: True)
    monkeypatch.setattr(visitors.server, "get_instance", lambda: made)
    monkeypatch.setattr(visitors, "GRACE", 0.2)
    return made


def in_a_thread(work: Callable[[], None]) -> None:
    """Of its own, as a server's loop and a page's script have: this one may have the browser's loop."""
    with ThreadPoolExecutor(1) as thread:
        thread.submit(work).result(SECONDS)


def after(visitor: Visitor, connected_again: bool, server: Server) -> None:
    """Lose the connection on the server's loop, and wait until the grace is over."""

    async def lose() -> None:
        visitor.leave()
        assert not visitor.gone.is_set()
        if connected_again:
            server.connected.add(visitor.session)
        await asyncio.sleep(0.5)

    in_a_thread(lambda: asyncio.run(lose()))


def test_a_visitor_who_is_not_back_in_time_is_gone(server: Server) -> None:
    visitor = Visitor("a")
    after(visitor, False, server)
    assert visitor.gone.is_set()
    assert server.closed == ["a"]


def test_a_visitor_who_is_back_in_time_loses_nothing(server: Server) -> None:
    visitor = Visitor("a")
    after(visitor, True, server)
    assert not visitor.gone.is_set()
    assert server.closed == []
    in_a_thread(visitor.leave)  # told by no loop, while the session is connected: somebody cleared the caches
    assert not visitor.gone.is_set()
    server.connected.clear()
    in_a_thread(visitor.leave)
    assert visitor.gone.is_set()


def test_every_departure_has_its_own_grace(server: Server) -> None:
    visitor = Visitor("a")

    async def flicker() -> None:
        visitor.leave()
        visitor.leave()  # back for a moment in between
        visitor._end_unless_back(1)
        assert not visitor.gone.is_set()
        await asyncio.sleep(0.5)

    in_a_thread(lambda: asyncio.run(flicker()))
    assert visitor.gone.is_set()
    assert server.closed == ["a"]


def test_of_many_who_leave_at_once_the_server_tidies_up_once(monkeypatch: pytest.MonkeyPatch) -> None:
    hold, collected = threading.Event(), []
    visitors._tidying.submit(hold.wait, SECONDS)
    monkeypatch.setattr(visitors.gc, "collect", lambda: collected.append(1))
    for _ in range(50):
        visitors.tidy()
    hold.set()
    visitors._tidying.submit(lambda: None).result(SECONDS)
    assert collected == [1]
    visitors.tidy()
    visitors._tidying.submit(lambda: None).result(SECONDS)
    assert collected == [1, 1]
