"""What people do on the Ask page, done to the real page."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable
from typing import Literal

import pytest
from PIL import Image, ImageDraw
from playwright.sync_api import Locator, Page, expect

from flowcut_lens.app.media import gallery
from tests.browser.conftest import ANSWER_SECONDS, ask, idle, wait_for_answers

Visit = Callable[..., Page]
ARMS = ("full", "cut", "control")
ANY = re.compile(r"\S")


def png(size: tuple[int, int], colour: str) -> bytes:
    picture = Image.new("RGB", size, colour)
    ImageDraw.Draw(picture).ellipse((size[0] // 4, 0, size[0] // 2, size[1]), fill="yellow")
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def upload(page: Page, name: str, content: bytes) -> None:
    with page.expect_file_chooser() as opened:
        page.get_by_test_id("stFileUploaderDropzone").get_by_text("Upload", exact=True).click()
    box = page.locator('[class*="st-key-upload-"]')
    number = int(re.findall(r"st-key-upload-(\d+)", box.get_attribute("class") or "")[0])
    opened.value.set_files({"name": name, "mimeType": "image/png", "buffer": content})
    expect(page.locator(f".st-key-upload-{number + 1}")).to_be_visible()  # once the file is handed over
    idle(page)


def card(page: Page, arm: str) -> Locator:
    return page.locator(f".lens-card.{arm}")


def run_button(page: Page) -> Locator:
    return page.get_by_role("button", name=re.compile(r"Run$"))


def layer_slider(page: Page) -> Locator:
    """The slider, once the stage's modules are there and have put it where they want it."""
    expect(page.locator(".stage")).to_have_attribute("data-layer", re.compile(r"\d"))
    return page.get_by_role("slider", name="Vision layer")


def test_the_first_screen_is_complete_before_anything_is_asked(visit: Visit) -> None:
    page = visit()
    expect(page.get_by_test_id("question")).to_have_text(gallery.entries()[0].question)
    expect(page.get_by_text("stored answers, no model was loaded")).to_be_visible()
    for arm in ARMS:
        expect(card(page, arm)).to_contain_text("Visual tokens")
    expect(card(page, "cut")).to_contain_text("FlowCut, 64 tokens")
    expect(card(page, "control")).to_contain_text("Random, 64 tokens")
    expect(layer_slider(page)).to_be_visible()
    expect(page.get_by_role("heading", name="Relay graph")).to_be_visible()
    expect(page.get_by_role("heading", name="Concentration")).to_be_visible()


def test_a_question_and_another_budget(visit: Visit) -> None:
    page = visit()
    ask(page, "how many stars are there")
    expect(card(page, "cut")).to_contain_text("FlowCut, 64 tokens")
    page.get_by_role("spinbutton", name="Tokens of 576").fill("192")
    page.keyboard.press("Enter")
    expect(page.get_by_role("spinbutton", name="Percent")).to_have_value("33.3")
    run_button(page).click()
    expect(card(page, "cut")).to_contain_text("FlowCut, 192 tokens", timeout=ANSWER_SECONDS * 1000)
    expect(card(page, "control")).to_contain_text("Random, 192 tokens")
    expect(page.get_by_test_id("question")).to_have_text("how many stars are there")


def test_the_layer_moves_without_the_server(visit: Visit) -> None:
    page = visit()
    slider = layer_slider(page)
    slider.focus()
    page.keyboard.press("Home")
    idle(page)
    sent: list[object] = []
    protocol = page.context.new_cdp_session(page)
    protocol.send("Network.enable")
    protocol.on("Network.webSocketFrameSent", lambda frame: sent.append(frame))
    before = page.locator(".status").inner_text()
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    expect(slider).to_have_value("3")
    expect(page.locator(".status")).not_to_have_text(before)
    page.wait_for_timeout(500)
    assert sent == []
    page.locator(".mask > canvas").click(position={"x": 40, "y": 40})  # a click does reach the server, and is heard
    expect(page.get_by_test_id("why").locator("table")).to_be_visible()
    assert sent


def test_the_nearest_kept_patch_is_marked_and_can_be_chosen(visit: Visit) -> None:
    page = visit()
    ask(page, "How many stars are there?")
    mask, nearest = page.locator(".mask > canvas"), page.get_by_test_id("nearest")
    layer_slider(page).focus()
    page.keyboard.press("End")
    mask.click(position={"x": 4, "y": 4})  # the corner of the background: nobody kept it
    expect(nearest).to_contain_text(
        re.compile(r"The nearest kept patch: patch \d+ \(row \d+, column \d+\), cosine 0\.\d\d")
    )
    row, column = map(int, re.findall(r"row (\d+), column (\d+)", nearest.inner_text())[0])
    page.mouse.move(0, 0)
    around = frame_of(mask, row, column)
    page.locator(".stage").focus()
    page.keyboard.press("Escape")
    expect(nearest).to_have_count(0)
    assert frame_of(mask, row, column) != around, "the nearest kept patch was framed while its patch was chosen"
    mask.click(position={"x": 4, "y": 4})
    nearest.get_by_role("button").click()
    expect(page.get_by_test_id("why")).to_contain_text(f"Patch {24 * row + column} (row {row}, column {column})")
    page.wait_for_url(re.compile(rf"patch={24 * row + column}\b"))


def frame_of(mask: Locator, row: int, column: int) -> str:
    """The pixels of a patch and its frame."""
    return str(
        mask.evaluate(
            """(canvas, [row, column]) => {
              const side = canvas.width / 24;
              const part = [column * side - 2, row * side - 2, side + 4, side + 4].map(Math.round);
              return canvas.getContext("2d").getImageData(...part).data.join();
            }""",
            [row, column],
        )
    )


def test_the_layers_play(visit: Visit) -> None:
    page = visit()
    slider = layer_slider(page)
    slider.focus()
    page.keyboard.press("Home")
    page.get_by_role("button", name="Play through the layers").click()
    expect(slider).not_to_have_value("0", timeout=5000)


@pytest.mark.parametrize("size", [(1200, 150), (90, 700)])
def test_an_uploaded_picture_of_odd_aspect(visit: Visit, size: tuple[int, int]) -> None:
    page = visit()
    upload(page, "mine.png", png(size, "navy"))
    expect(page.get_by_text("knows drawn scenes only")).to_be_visible()
    expect(page.get_by_text("HF_HUB_OFFLINE is set").or_(page.get_by_text("on this machine")).first).to_be_visible()
    ask(page, "What is in the picture?")
    expect(page.get_by_text("your picture", exact=False).first).to_be_visible()
    expect(layer_slider(page)).to_be_visible()


BAD = {"words.png": b"only words", "cut.png": png((300, 300), "red")[:80]}


@pytest.mark.parametrize("name", sorted(BAD))
def test_a_bad_picture_keeps_the_last_good_answers(visit: Visit, name: str) -> None:
    page = visit()
    upload(page, name, BAD[name])
    expect(page.get_by_test_id("stAlert")).to_be_visible()
    expect(card(page, "cut")).to_be_visible()
    expect(page.get_by_test_id("question")).to_have_text(gallery.entries()[0].question)


def test_an_unknown_model_leaves_the_old_one_in_use(visit: Visit) -> None:
    page = visit()
    box = page.get_by_role("combobox", name=re.compile("Model"))
    box.click()
    box.fill("/there/is/no/such/folder")
    page.keyboard.press("Enter")
    idle(page)
    run_button(page).click()
    expect(page.get_by_text("stays in use")).to_be_visible(timeout=ANSWER_SECONDS * 1000)
    expect(card(page, "cut")).to_be_visible()
    ask(page, "Is there a star?")
    expect(page.get_by_text("stays in use")).to_have_count(0)


def test_what_people_write_is_never_markup(visit: Visit) -> None:
    page = visit()
    question = '<img src="x" onerror="document.title=\'gone\'"> <b>bold</b>?'
    ask(page, question)
    assert page.title() == "FlowCut Lens"
    assert page.locator("[data-testid=question] b").count() == 0


def test_a_new_scene_is_marked_right_or_wrong(visit: Visit) -> None:
    page = visit()
    page.get_by_role("button", name="New scene").click()
    expect(page.get_by_text("stored answers")).to_have_count(0)
    wait_for_answers(page, ANY)
    for arm in ARMS:
        expect(card(page, arm).locator(".verdict")).to_have_text(re.compile("right|wrong"))


def test_the_gallery_by_mouse_and_by_keyboard(visit: Visit) -> None:
    page = visit()
    second, third = gallery.entries()[1:3]
    page.get_by_role("button", name=second.note, exact=True).click()
    wait_for_answers(page, second.question)
    page.get_by_role("button", name=third.note, exact=True).focus()
    page.keyboard.press("Enter")
    wait_for_answers(page, third.question)
    expect(page.get_by_role("button", name=third.note, exact=True)).to_have_attribute("aria-pressed", "true")


PASTE = """(content) => {
  const bytes = Uint8Array.from(atob(content), (one) => one.charCodeAt(0));
  const clipboardData = new DataTransfer();
  clipboardData.items.add(new File([bytes], "copied.png", { type: "image/png" }));
  return !document.dispatchEvent(new ClipboardEvent("paste", { clipboardData, cancelable: true }));
}"""


SCHEMES: tuple[Literal["dark", "light"], ...] = ("dark", "light", "dark")
COUNT_READS = """() => {
  window.reads = 0;
  const read = FileReader.prototype.readAsDataURL;
  FileReader.prototype.readAsDataURL = function (...given) { window.reads += 1; return read.apply(this, given); };
}"""


def test_a_pasted_picture(visit: Visit) -> None:
    page = visit()
    content = base64.b64encode(png((200, 100), "green")).decode()
    # The listener's script arrives a moment after the page: press Ctrl+V until the page takes it.
    page.wait_for_function(PASTE, arg=content, polling=200)
    expect(page.get_by_role("img", name="pasted picture")).to_be_visible()
    expect(page.get_by_text("knows drawn scenes only")).to_be_visible()


def test_a_picture_is_pasted_once_whatever_the_theme_was(visit: Visit) -> None:
    page = visit()
    for scheme in SCHEMES:
        page.emulate_media(color_scheme=scheme)
        idle(page)
    page.evaluate(COUNT_READS)
    page.wait_for_function(PASTE, arg=base64.b64encode(png((200, 100), "green")).decode(), polling=200)
    expect(page.get_by_role("img", name="pasted picture")).to_be_visible()
    assert page.evaluate("window.reads") == 1


def test_a_photograph_by_camera(visit: Visit) -> None:
    page = visit(permissions=["camera"])
    page.get_by_role("button", name="Camera").click()
    page.wait_for_function("document.querySelector('video')?.videoWidth > 0")  # the camera is really running
    page.get_by_role("button", name="Take Photo").click()
    expect(page.get_by_role("img", name="your photograph")).to_be_visible()
    expect(page.get_by_text("knows drawn scenes only")).to_be_visible()


def test_two_people_at_once_do_not_see_each_others_pictures(visit: Visit) -> None:
    one, other = visit(), visit()
    upload(one, "mine.png", png((300, 200), "purple"))
    upload(other, "mine.png", png((200, 300), "orange"))
    own = [sources(page) for page in (one, other)]
    one.get_by_role("textbox", name="Question").fill("Is this mine?")
    other.get_by_role("textbox", name="Question").fill("Is this another's?")
    run_button(one).click()
    run_button(other).click()
    wait_for_answers(one, "Is this mine?")
    wait_for_answers(other, "Is this another's?")
    assert not own[0] & sources(other)
    assert not own[1] & sources(one)
    expect(visit().get_by_test_id("question")).to_have_text(gallery.entries()[0].question)


def sources(page: Page) -> set[str]:
    """Addresses of the picture beside the question."""
    found = page.locator(".st-key-picture img")
    expect(found).to_have_count(1)
    return {found.get_attribute("src") or ""}


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 1920])
def test_nothing_is_cut_off(visit: Visit, scheme: str, width: int) -> None:
    page = visit(viewport={"width": width, "height": 900}, color_scheme=scheme)
    main = page.get_by_test_id("stMain")
    assert main.evaluate("element => element.scrollWidth - element.clientWidth") <= 0
    background = page.evaluate("getComputedStyle(document.querySelector('.stApp')).backgroundColor")
    dark = sum(int(channel) for channel in re.findall(r"\d+", background)[:3]) < 200
    assert dark == (scheme == "dark")
