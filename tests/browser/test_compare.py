"""What people do on the Compare page, done to the real page."""

from __future__ import annotations

import re
from collections.abc import Callable

from playwright.sync_api import Page, expect

from tests.browser.conftest import ANSWER_SECONDS, idle

Visit = Callable[..., Page]


def compare(page: Page, section: str) -> None:
    page.get_by_role("link", name="Compare").click()
    page.get_by_role("radio", name=section).or_(page.get_by_role("button", name=section)).first.click()
    idle(page)


def finished(page: Page) -> None:
    """No study is running any more."""
    expect(page.get_by_role("button", name=re.compile("Stop"))).to_have_count(0, timeout=ANSWER_SECONDS * 1000)
    idle(page)


def test_every_criterion_side_by_side(visit: Visit) -> None:
    page = visit()
    compare(page, "Methods")
    expect(page.locator(".lens-small").first).to_be_visible(timeout=ANSWER_SECONDS * 1000)
    finished(page)
    assert page.locator(".lens-small img").count() > 15
    expect(page.get_by_text("Not for this model")).to_be_visible()
    compare(page, "Ground truth")
    expect(page.get_by_text("Asked about:")).to_be_visible()
    assert "section=truth" in page.url
    expect(page.locator(".js-plotly-plot").first).to_be_visible()


def test_patches_are_rescued_and_dropped(visit: Visit) -> None:
    page = visit()
    compare(page, "Rescue and drop")
    canvas = page.locator(".painter canvas")
    expect(canvas).to_have_attribute("data-kept", "64", timeout=ANSWER_SECONDS * 1000)
    canvas.click(position={"x": 4, "y": 4})
    expect(page.get_by_text("65 kept")).to_be_visible()
    idle(page)
    box = canvas.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 40, box["y"] + 5)
    page.mouse.down()
    for x, y in ((200, 5), (200, 60), (40, 60)):
        page.mouse.move(box["x"] + x, box["y"] + y, steps=4)
    page.mouse.up()
    assert int(canvas.get_attribute("data-kept") or 0) > 65, "the lasso rescued nothing"
    page.get_by_role("button", name=re.compile("Drop the")).click()
    expect(canvas).to_have_attribute("data-kept", "64")
    page.get_by_role("button", name=re.compile("Ask again")).click()
    expect(page.get_by_test_id("tries")).to_contain_text("64 patches", timeout=ANSWER_SECONDS * 1000)
    page.get_by_role("button", name="Start over").click()
    expect(canvas).to_have_attribute("data-kept", "64")
    canvas.focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press(" ")
    expect(canvas).not_to_have_attribute("data-kept", "64")
    idle(page)
    page.keyboard.press("ArrowRight")  # goes on from the same patch after the page has run
    expect(page.locator(".painter .says")).to_contain_text("Patch 25, row 1, column 1")


def test_of_quick_clicks_none_is_lost(visit: Visit) -> None:
    page = visit()
    compare(page, "Rescue and drop")
    canvas = page.locator(".painter canvas")
    expect(canvas).to_have_attribute("data-kept", "64", timeout=ANSWER_SECONDS * 1000)
    idle(page)
    box = canvas.bounding_box()
    assert box is not None
    side = box["width"] / 24
    for column in range(12):  # faster than the page runs: several wait for the same run
        page.mouse.click(box["x"] + (column + 0.5) * side, box["y"] + side / 2)
    told = page.get_by_text(re.compile(r"\d+ kept: "))
    expect(told).to_have_text(re.compile(f"^{canvas.get_attribute('data-kept')} kept: "))
    rescued, dropped = re.findall(r"(\d+) (?:rescued|dropped)", told.inner_text())
    assert int(rescued) + int(dropped) == 12
    for _ in range(12):
        page.get_by_role("button", name="Undo").click()
        idle(page)
    expect(canvas).to_have_attribute("data-kept", "64")
    expect(page.get_by_role("button", name="Undo")).to_be_disabled()


def test_settings_stay_when_pages_are_switched(visit: Visit) -> None:
    page = visit()
    page.get_by_role("spinbutton", name="Tokens of 576").fill("128")
    page.keyboard.press("Enter")
    idle(page)
    compare(page, "Flow by depth")
    expect(page.get_by_role("spinbutton", name="Tokens of 576")).to_have_value("128")
    expect(page.locator(".js-plotly-plot").first).to_be_visible()
    page.get_by_role("link", name="Ask").click()
    expect(page.get_by_test_id("answers")).to_be_visible()
    expect(page.get_by_role("spinbutton", name="Tokens of 576")).to_have_value("128")
