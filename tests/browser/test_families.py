"""Models of other families through the real page: their folder typed into the model box, tiles chosen, layers moved."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import FilePayload, Locator, Page, expect

from tests import tiny, tiny_qwen, tiny_video
from tests.browser.conftest import ANSWER_SECONDS, ask, idle
from tests.media.test_videos import film

pytestmark = pytest.mark.timeout(900)  # three answers of a model that is loaded first, on a machine with other work
Visit = Callable[..., Page]
BUDGET = "9"
ANSWER_TOKENS = "4"
"""Random weights ramble: a few tokens show as much as many."""


@pytest.fixture(scope="module")
def next_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.next_checkpoint(tmp_path_factory.mktemp("next"))


@pytest.fixture(scope="module")
def qwen_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_qwen.checkpoint("Qwen2_5_VL", tmp_path_factory.mktemp("qwen"))


@pytest.fixture(scope="module")
def video_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_video.checkpoint("VideoLlava", tmp_path_factory.mktemp("video"))


def wide_picture() -> FilePayload:
    picture = io.BytesIO()
    tiny.picture(size=(200, 100)).save(picture, "PNG")
    return {"name": "wide.png", "mimeType": "image/png", "buffer": picture.getvalue()}


def asked(visit: Visit, folder: Path, file: FilePayload | Path | None = None) -> Page:
    """The page after a file, or a wide picture, of one's own was put to the model in a folder, all by hand."""
    page = visit()
    page.locator('[data-testid="stFileUploaderDropzoneInput"]').set_input_files(file or wide_picture())
    expect(page.get_by_role("img", name=re.compile("^(your picture|frame 1 )")).first).to_be_attached()
    idle(page)
    type_into(page, page.get_by_role("combobox", name=re.compile("Model")), str(folder))
    type_into(page, page.get_by_role("spinbutton", name=re.compile("^Tokens of")), BUDGET)
    page.get_by_test_id("stExpander").get_by_text("More", exact=True).click()
    type_into(page, page.get_by_role("spinbutton", name="Most new tokens"), ANSWER_TOKENS)
    ask(page, "What is it?")
    expect(page.locator(".lens-facts").first).to_contain_text(folder.name, timeout=ANSWER_SECONDS * 1000)
    expect(page.get_by_test_id("stAlert").filter(has_text="stays in use")).to_have_count(0)
    expect(stage(page)).to_be_visible(timeout=ANSWER_SECONDS * 1000)
    idle(page)
    return page


def type_into(page: Page, field: Locator, text: str) -> None:
    field.click()
    field.fill(text)
    page.keyboard.press("Enter")
    idle(page)


def stage(page: Page) -> Locator:
    return page.locator(".stage[data-layer]")


def mask(page: Page) -> str:
    return str(page.locator(".mask > canvas").evaluate("c => c.toDataURL()"))


def choose(page: Page, box: str, name: str, told: str | None = None) -> None:
    found = page.get_by_role("combobox", name=re.compile(box))
    found.scroll_into_view_if_needed()
    idle(page)  # an open list closes when the page is scrolled, or drawn anew
    found.click()
    page.wait_for_timeout(300)
    if found.get_attribute("aria-expanded") != "true":  # its own opening scrolled the page
        found.click()
    page.get_by_role("option", name=name, exact=True).click()
    idle(page)
    expect(page.locator(".status")).to_contain_text(told or name, timeout=ANSWER_SECONDS * 1000)


def move_to_layer(page: Page, layer: int) -> None:
    expect(page.locator(".stage")).to_have_attribute("data-layer", re.compile(r"\d"))  # its modules are there
    slider = page.get_by_role("slider", name="Vision layer")
    slider.evaluate("(e, to) => { e.value = to; e.dispatchEvent(new Event('input', { bubbles: true })); }", layer)
    expect(stage(page)).to_have_attribute("data-layer", str(layer))


def test_llava_next_in_tiles(visit: Visit, next_folder: Path) -> None:
    page = asked(visit, next_folder)
    expect(page.get_by_test_id("counts").first).to_contain_text("newlines")
    expect(page.locator(".status")).to_contain_text(re.compile("base: .* of 64 patches enter"))
    choose(page, "Tile", "crop row 1, column 2")
    whole = mask(page)
    move_to_layer(page, 0)
    expect(page.locator(".status")).to_contain_text("64 of 64 patches enter layer 0")
    assert mask(page) != whole
    choose(page, "Tile", "mean of all 3", "mean of 3 tiles")
    expect(page.locator(".status")).to_contain_text("mean of 3 tiles: 192 of 192 patches enter layer 0")


def test_a_patch_of_another_tile_brings_its_graph(visit: Visit, next_folder: Path) -> None:
    page = asked(visit, next_folder)
    canvas = page.locator(".mask > canvas")
    canvas.focus()
    for _ in range(12):  # from the base to its right side, and over into the crops
        page.keyboard.press("ArrowRight")
    expect(page.locator(".details strong")).to_have_text(re.compile(r"patch \d+"))
    expect(page.locator(".details")).to_contain_text("of crop row 1")
    page.keyboard.press("Enter")
    expect(page.locator(".status")).to_contain_text("crop row 1", timeout=ANSWER_SECONDS * 1000)
    expect(page.get_by_test_id("why")).to_contain_text("of crop row 1")


def test_qwen_with_its_proxy(visit: Visit, qwen_folder: Path) -> None:
    page = asked(visit, qwen_folder)
    expect(page.get_by_text("What is called CLS in these figures is a proxy")).to_be_visible()
    expect(page.locator(".lens-card.cut")).to_contain_text(re.compile(r"Visual tokens\s*18"))
    before = mask(page)
    move_to_layer(page, 0)
    assert mask(page) != before
    expect(page.get_by_role("combobox", name=re.compile("Tile"))).to_have_count(0)
    expect(page.get_by_role("img", name=re.compile("Attention of All tokens")).first).to_be_visible()


def test_a_video_frame_by_frame(visit: Visit, video_folder: Path, tmp_path: Path) -> None:
    page = asked(visit, video_folder, Path(film(tmp_path / "film.mp4")))
    strip = page.get_by_role("group", name="Frames of the video")
    expect(strip.get_by_role("img")).to_have_count(8)
    expect(strip.get_by_role("img", name="frame 4 at 0.7 s")).to_be_visible()
    expect(page.locator(".lens-card.cut")).to_contain_text(re.compile(r"Visual tokens\s*9"))
    expect(page.get_by_text("frame 8, 8 × 8 patches").first).to_be_visible()
    page.locator(".mask > canvas").first.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    expect(page.get_by_test_id("why")).to_contain_text("of frame 1", timeout=ANSWER_SECONDS * 1000)
    choose(page, "Frame", "frame 3")
    whole = mask(page)
    move_to_layer(page, 0)
    expect(page.locator(".status")).to_contain_text("frame 3: 64 of 64 patches enter layer 0")
    assert mask(page) != whole
    choose(page, "Frame", "mean of all 8", "mean of 8 frames")
    expect(page.locator(".status")).to_contain_text("mean of 8 frames: 512 of 512 patches enter layer 0")
    type_into(page, page.get_by_role("spinbutton", name=re.compile("^Frames to take")), "3")
    expect(strip.get_by_role("img")).to_have_count(3)
    expect(page.get_by_test_id("answers")).to_be_visible()
