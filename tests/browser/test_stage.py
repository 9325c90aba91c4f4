"""The stage in real Chromium, on the first screen's stored runs: one layer moves all, patches tie panels together."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Browser, Locator, Page, Position, expect

from tests.browser.conftest import START_SECONDS, idle

SLOWEST_DRAWING_MS = 40
"""For a loaded machine without a graphics card; a free one takes about 2."""


@pytest.fixture(scope="module")
def visitor(browser: Browser, server: str) -> Iterator[Page]:
    """One visitor for all tests of this file, as the stage reaches nothing that another page would share."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(server)
    yield page
    page.close()
    assert complaints == []


@pytest.fixture
def page(visitor: Page) -> Page:
    """The stage as it begins: layer 0, no patch chosen, the pointer elsewhere."""
    visitor.mouse.move(0, 0)
    stage(visitor).focus()
    visitor.keyboard.press("Escape")
    go_to(visitor, 0)
    return visitor


def stage(page: Page) -> Locator:
    found = page.locator(".stage[data-layer]")
    expect(found).to_be_visible(timeout=START_SECONDS * 1000)
    idle(page)
    found.scroll_into_view_if_needed()
    return found


def canvas(page: Page, panel: str) -> Locator:
    return page.locator(f".{panel} > canvas")


def pixels(page: Page, panel: str) -> str:
    return str(canvas(page, panel).evaluate("c => c.toDataURL()"))


def go_to(page: Page, layer: int) -> None:
    expect(page.locator(".stage")).to_have_attribute("data-layer", re.compile(r"\d"))  # its modules are there
    slider = page.get_by_role("slider", name="Vision layer")
    slider.evaluate("(e, to) => { e.value = to; e.dispatchEvent(new Event('input', { bubbles: true })); }", layer)
    expect(stage(page)).to_have_attribute("data-layer", str(layer))
    page.wait_for_timeout(400)  # the graph glides to the layer


def patch_in_graph(page: Page) -> tuple[float, float]:
    """Some place on the relay graph that holds a patch: found as people do, by moving over it."""
    box = canvas(page, "relay").bounding_box()
    assert box
    for share in range(20, 90, 2):
        for height in (0.25, 0.3, 0.35):
            at = box["width"] * share / 100, box["height"] * height
            canvas(page, "relay").hover(position={"x": at[0], "y": at[1]})
            if not page.locator(".details").get_by_text("Point at a patch").count():
                return at
    raise AssertionError("The pointer met no patch in the relay graph.")


def test_one_layer_moves_mask_graph_and_curves(page: Page) -> None:
    before = {panel: pixels(page, panel) for panel in ("mask", "relay", "chart")}
    go_to(page, 10)
    for panel, drawn in before.items():
        assert pixels(page, panel) != drawn, panel
    expect(page.locator(".status")).to_contain_text("64 of 576 patches enter layer 10")
    expect(page.locator(".shown")).to_have_text(
        re.compile(r"Shown at layer 10: \d.*% of the inflow \(\d+ edges\).*Layers 0 to 10 together")
    )
    assert float(stage(page).get_attribute("data-draw-ms") or "nan") < SLOWEST_DRAWING_MS


def test_keys_change_the_layer_and_play(page: Page) -> None:
    stage(page).focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    expect(stage(page)).to_have_attribute("data-layer", "2")
    page.keyboard.press("ArrowLeft")
    expect(stage(page)).to_have_attribute("data-layer", "1")
    page.keyboard.press(" ")
    expect(page.get_by_role("button", name="Pause")).to_be_visible()
    expect(stage(page)).to_have_attribute("data-layer", "3", timeout=6000)
    page.keyboard.press(" ")
    expect(page.get_by_role("button", name="Play through the layers")).to_be_visible()


def test_a_patch_pointed_at_in_the_graph_lights_on_the_picture(page: Page) -> None:
    before = pixels(page, "mask")
    patch_in_graph(page)
    assert pixels(page, "mask") != before
    expect(page.locator(".details strong")).to_have_text(re.compile(r"patch \d+"))


def test_a_patch_pointed_at_on_the_picture_lights_in_the_graph(page: Page) -> None:
    strongest = int((page.locator(".details strong").inner_text()).split()[1])
    before = pixels(page, "relay")
    box = canvas(page, "mask").bounding_box()
    assert box
    row, column = divmod(strongest, 24)
    x, y = box["width"] * (column + 0.5) / 24, box["height"] * (row + 0.5) / 24
    canvas(page, "mask").hover(position={"x": x, "y": y})
    expect(page.locator(".details strong")).to_have_text(f"patch {strongest}")
    assert pixels(page, "relay") != before


def test_a_click_keeps_a_patch_and_names_its_heads_strongest_first(page: Page) -> None:
    at = patch_in_graph(page)
    canvas(page, "relay").click(position={"x": at[0], "y": at[1]})
    idle(page)
    chosen = page.locator(".details strong").inner_text()
    page.mouse.move(0, 0)
    expect(page.locator(".details strong")).to_have_text(chosen)
    shares = page.locator(".flow.inflow .share").all_inner_texts()
    values = [float(share.rstrip("%")) for share in shares]
    assert len(values) == 4
    assert values == sorted(values, reverse=True)
    assert sum(values) == pytest.approx(100, abs=3)


def test_a_chosen_patch_is_followed_through_the_layers_until_escape(page: Page) -> None:
    panel = page.get_by_test_id("why")
    expect(panel).to_contain_text("Click a patch")
    canvas(page, "mask").click(position={"x": 4, "y": 4})
    expect(panel).to_contain_text(re.compile(r"Patch 0 \(row 0, column 0\) was (pruned after layer|kept to the end)"))
    rows = panel.locator("tbody tr").count()
    assert 1 <= rows <= 12
    stage(page).focus()
    page.keyboard.press("Escape")
    expect(panel).to_contain_text("Click a patch")


def test_the_chart_takes_a_layer_and_another_metric(page: Page) -> None:
    box = canvas(page, "chart").bounding_box()
    assert box
    canvas(page, "chart").click(position={"x": box["width"] - 20, "y": 60})
    expect(stage(page)).to_have_attribute("data-layer", "11")
    page.get_by_role("combobox", name="How concentration is measured").select_option("Gini")
    expect(page.locator(".values")).to_contain_text("Gini at layer 11")


def test_the_graph_can_show_the_unpruned_run(page: Page) -> None:
    go_to(page, 11)
    pruned, told = pixels(page, "relay"), page.locator(".shown").inner_text()
    page.get_by_text("All tokens", exact=True).locator("visible=true").last.click()
    assert pixels(page, "relay") != pruned
    expect(page.locator(".shown")).not_to_have_text(told)


def test_the_mask_can_say_at_which_layer_each_patch_was_pruned(page: Page) -> None:
    go_to(page, 11)
    before = pixels(page, "mask")
    page.get_by_label("colour by layer").check()
    assert pixels(page, "mask") != before
    expect(page.locator(".mask .legend")).to_contain_text("pruned after layer")


def test_arrow_keys_reach_every_patch_of_the_picture(page: Page) -> None:
    canvas(page, "mask").focus()
    page.keyboard.press("ArrowRight")
    first = int(page.locator(".details strong").inner_text().split()[1])
    page.keyboard.press("ArrowDown")
    expect(page.locator(".details strong")).to_have_text(f"patch {first + 24}")
    expect(stage(page)).to_have_attribute("data-layer", "0")


def test_a_patch_is_chosen_and_let_go_by_keyboard(page: Page) -> None:
    panel = page.get_by_test_id("why")
    canvas(page, "mask").focus()
    page.keyboard.press("ArrowLeft")
    pointed = page.locator(".details strong").inner_text()
    page.keyboard.press("Enter")
    expect(panel).to_contain_text(pointed.capitalize() + " (row")
    page.wait_for_url(re.compile(r"patch=" + pointed.split()[1] + r"\b"))
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    expect(panel).to_contain_text(f"Patch {int(pointed.split()[1]) + 24} (row")
    page.keyboard.press("Escape")
    expect(panel).to_contain_text("Click a patch")


def table_row(page: Page, layer: int) -> Locator:
    return page.locator(f".lens-why tr[data-layer='{layer}']")


def marked(page: Page, layer: int) -> bool:
    row = table_row(page, layer).locator("th")
    return "▸" in str(row.evaluate("cell => getComputedStyle(cell, '::before').content"))


def test_the_table_and_the_stage_show_one_layer(page: Page) -> None:
    choose_kept_patch(page)
    go_to(page, 3)
    assert [layer for layer in range(12) if marked(page, layer)] == [3]
    table_row(page, 6).get_by_role("button").click()
    expect(stage(page)).to_have_attribute("data-layer", "6")
    assert [layer for layer in range(12) if marked(page, layer)] == [6]


def choose_kept_patch(page: Page) -> int:
    """The patch that CLS gathers most from in the last layer, when only those that were kept are left."""
    page.locator(".switch input[value=pruned]").check(force=True)
    go_to(page, 11)
    patch = int(page.locator(".details strong").inner_text().split()[1])
    box = canvas(page, "mask").bounding_box()
    assert box
    row, column = divmod(patch, 24)
    at: Position = {"x": box["width"] * (column + 0.5) / 24, "y": box["height"] * (row + 0.5) / 24}
    canvas(page, "mask").click(position=at)
    expect(page.get_by_test_id("why")).to_contain_text(
        f"Patch {patch} (row {row}, column {column}) was kept to the end"
    )
    expect(page.get_by_test_id("nearest")).to_have_count(0)
    return patch


def test_the_chosen_patch_is_framed_on_the_pictures_of_the_words_and_chosen_there(page: Page) -> None:
    choose_kept_patch(page)
    pictures = page.locator(".lens-heat")
    expect(pictures).to_have_count(2)
    for at in range(2):
        expect(pictures.nth(at).locator(".mark")).to_be_visible()
    box = pictures.first.bounding_box()
    assert box
    pictures.first.click(position={"x": box["width"] * 2.5 / 24, "y": box["height"] * 1.5 / 24})
    expect(page.get_by_test_id("why")).to_contain_text("Patch 26 (row 1, column 2)")
    frame = pictures.nth(1).locator(".mark").bounding_box()
    other = pictures.nth(1).bounding_box()
    assert frame
    assert other
    assert (frame["x"] - other["x"]) / other["width"] == pytest.approx(2 / 24, abs=0.01)
    assert (frame["y"] - other["y"]) / other["height"] == pytest.approx(1 / 24, abs=0.01)
    assert frame["width"] / other["width"] == pytest.approx(1 / 24, abs=0.01)


def test_a_link_holds_the_words_panel_and_the_arm_beside_layer_and_patch(
    page: Page, browser: Browser, server: str
) -> None:
    go_to(page, 4)
    canvas(page, "mask").click(position={"x": 60, "y": 60})
    idle(page)
    words = page.locator(".st-key-words")
    page.get_by_role("radio", name="Random 64 (seed 0)").click()
    expect(words).to_contain_text("All tokens and Random 64 (seed 0)")
    idle(page)
    words.get_by_text("Weigh by value").click()
    page.wait_for_url(re.compile("weighted=1"))
    go_to(page, 5)
    canvas(page, "mask").click(position={"x": 4, "y": 4})
    idle(page)
    box = words.get_by_role("combobox", name=re.compile("Decoder layer"))
    box.click()
    box.fill("layer 2")
    page.keyboard.press("Enter")
    parts = ("layer=5", "patch=0", "arm=control", "decoder=2", "weighted=1")
    page.wait_for_url(lambda url: all(part in url for part in parts))  # Streamlit writes its part over the stage's
    expect(page.locator(".pruned-title")).to_have_text("Random 64 (seed 0)")
    other = browser.new_page()
    other.goto(page.url)
    expect(stage(other)).to_have_attribute("data-layer", "5")
    expect(other.get_by_test_id("why")).to_contain_text("Patch 0 (row 0, column 0)")
    expect(other.locator(".pruned-title")).to_have_text("Random 64 (seed 0)")
    expect(other.locator(".st-key-words")).to_contain_text("decoder layer 2 · mean of all heads · norm of attention")
    other.wait_for_url(lambda url: all(part in url for part in parts))
    other.close()
    page.get_by_role("radio", name="FlowCut 64").first.click()
    expect(words).to_contain_text("All tokens and FlowCut 64 (official)")
    words.get_by_text("Weigh by value").click()
    page.wait_for_url(lambda url: "weighted" not in url and "arm" not in url and "patch=0" in url)


def test_a_link_opens_the_same_view(page: Page, browser: Browser, server: str) -> None:
    go_to(page, 5)
    canvas(page, "mask").click(position={"x": 40, "y": 40})
    expect(page.get_by_test_id("why")).to_contain_text("Patch")
    page.wait_for_url(re.compile(r"layer=5.*patch=\d+"))
    other = browser.new_page()
    other.goto(page.url)
    expect(stage(other)).to_have_attribute("data-layer", "5")
    expect(other.get_by_test_id("why").locator("p").first).to_have_text(
        page.get_by_test_id("why").locator("p").first.inner_text()
    )
    other.close()


def test_a_link_to_the_graph_of_the_unpruned_run_chooses_it(browser: Browser, server: str) -> None:
    page = browser.new_page()
    page.goto(f"{server}/?graph=full")
    stage(page)
    expect(page.locator(".switch input[value=full]")).to_be_checked()
    page.close()


def test_layers_that_are_not_read_are_told_and_not_played(page: Page) -> None:
    expect(page.locator(".stops .unread")).to_have_attribute("title", "not read by the language model")
    expect(page.locator(".status")).not_to_contain_text("not read")
    go_to(page, 11)
    expect(page.locator(".status")).to_contain_text("enter layer 11 (not read by the language model)")
    go_to(page, 9)
    stage(page).focus()
    page.keyboard.press(" ")
    expect(page.get_by_role("button", name="Play through the layers")).to_be_visible(timeout=6000)
    expect(stage(page)).to_have_attribute("data-layer", "10")


def test_one_scale_thins_layers_that_hardly_flow_and_totals_are_told(page: Page) -> None:
    go_to(page, 3)
    expect(page.locator(".shown")).to_contain_text(re.compile(r"Totals: CLS pays the patches \d+% of its attention"))
    own = pixels(page, "relay")
    expect(page.locator(".relay .how")).to_contain_text("relative to the layer's own strongest edge")
    page.get_by_label("one scale for all layers").check()
    assert pixels(page, "relay") != own
    expect(page.locator(".relay .how")).to_contain_text("on one scale for all layers and both runs")
    page.get_by_label("one scale for all layers").uncheck()
    assert pixels(page, "relay") == own


def test_it_opens_where_the_mask_is_whole(browser: Browser, server: str) -> None:
    page = browser.new_page()
    page.goto(server)
    expect(stage(page)).to_have_attribute("data-layer", "10")
    expect(page.locator(".status")).to_contain_text("64 of 576 patches enter layer 10")
    page.close()


def test_panels_fit_their_boxes_in_the_dark_on_a_large_dense_display(browser: Browser, server: str) -> None:
    page = browser.new_page(viewport={"width": 1920, "height": 1080}, color_scheme="dark", device_scale_factor=2)
    page.goto(server)
    root = stage(page)
    assert root.get_attribute("data-dark") == "yes"
    for panel in ("mask", "relay", "chart"):
        wide, shown = canvas(page, panel).evaluate("c => [c.width, c.getBoundingClientRect().width]")
        assert wide == pytest.approx(2 * shown, abs=2)
    assert root.evaluate("e => e.scrollWidth - e.clientWidth") <= 0
    page.close()


CALLED_TOO_LATE = """async (stage, url) => {
  const left = document.createElement("div");
  left.append(stage.cloneNode(true));
  const { default: appear } = await import(url);
  appear({ parentElement: left, data: new Uint8Array(), setStateValue() {} })();
}"""


def test_a_stage_whose_page_was_left_before_it_appeared_does_nothing(visit: Callable[..., Page], server: str) -> None:
    page = visit()
    stage(page).evaluate(CALLED_TOO_LATE, f"{server}/_stcore/bidi-components/flowcut-lens.stage/stage.js")
    page.wait_for_timeout(500)
