"""Take README's screenshot from a running page: `python -m tests.browser.screenshot http://127.0.0.1:8501`."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from playwright.sync_api import ViewportSize, expect, sync_playwright

from tests.browser.conftest import FLAGS, ROOT, idle

SIZE: ViewportSize = {"width": 1360, "height": 1250}
LAYER = "7"
"""A layer in the middle of the pruning, where all three panels have something to show."""


def main(url: str, out: Path = ROOT / "assets" / "screenshot.png") -> None:
    """Open the first screen as a new visitor, walk to a layer in the middle, and keep what is to be seen."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        page = browser.new_page(viewport=SIZE)
        page.goto(url)
        expect(page.get_by_test_id("answers")).to_be_visible()
        idle(page)
        slider = page.get_by_role("slider", name="Vision layer")
        slider.fill(LAYER)
        page.wait_for_timeout(1500)
        page.screenshot(path=str(out))
        browser.close()


if __name__ == "__main__":
    main(sys.argv[1])
