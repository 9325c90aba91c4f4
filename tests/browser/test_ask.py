"""What people do on the Ask page, done to the real page."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from pathlib import Path

from PIL import Image, ImageDraw
from playwright.sync_api import Page, expect

from app import gallery
from tests.browser.conftest import ANSWER_SECONDS, ask, wait_for_answers

Visit = Callable[..., Page]
STAGE = "flow-stage"


def png(size: tuple[int, int], colour: str) -> bytes:
    picture = Image.new("RGB", size, colour)
    ImageDraw.Draw(picture).ellipse((size[0] // 4, 0, size[0] // 2, size[1]), fill="yellow")
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def upload(page: Page, name: str, content: bytes) -> None:
    page.get_by_role("button", name="Upload").click()
    page.locator('[data-testid="stFileUploaderDropzoneInput"]').set_input_files(
        {"name": name, "mimeType": "image/png", "buffer": content}
    )


def card(page: Page, lane: str) -> str:
    return page.locator(f".lens-card.{lane}").inner_text()


def test_first_screen_is_complete_before_anything_is_asked(visit: Visit) -> None:
    page = visit()
    first = gallery.entries()[0]
    expect(page.get_by_test_id("question")).to_have_text(first.question)
    expect(page.get_by_text("stored answers, no model was loaded")).to_be_visible()
    for lane in ("full", "cut", "control"):
        assert "Visual tokens" in card(page, lane)
    assert "FlowCut, 64 tokens" in card(page, "cut")
    assert "Random, 64 tokens" in card(page, "control")
    expect(page.get_by_role("slider", name=re.compile("layer", re.I))).to_be_visible()
