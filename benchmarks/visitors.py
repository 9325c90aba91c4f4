"""What visitors leave behind: the server's memory while people come one after another, open a photo, and leave.

Each visitor is a browser context of real Chromium that opens the page, uploads a 12-megapixel JPEG of its own, waits
for its preview, and is closed. Read is the resident memory of the server's process after every few visitors.

    python -m benchmarks.visitors                       # 200 visitors; writes benchmarks/visitors.md and .json
"""

from __future__ import annotations

import argparse
import io
import json
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

from benchmarks.serving import Served, free_port, serving

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]  # fmt: skip
PHOTO = (4000, 3000)
"""Pixels: 12 megapixels, 36 MB when decoded."""
WARM_UP = 5
"""Visitors before the first reading: models are loaded, and what is set up once is set up."""
SECONDS = 120


def photograph(seed: int, size: tuple[int, int] = PHOTO) -> bytes:
    """A JPEG that no other visitor has: soft colours with the noise of a camera, about 3 MB at 12 megapixels."""
    rng = np.random.default_rng(seed)
    soft = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC)
    noise = rng.integers(-8, 9, (size[1], size[0], 1), dtype=np.int16)
    written = io.BytesIO()
    Image.fromarray((np.asarray(soft) + noise).clip(0, 255).astype(np.uint8)).save(written, "JPEG", quality=85)
    return written.getvalue()


def open_photo(page: Page, url: str, content: bytes, name: str) -> None:
    """What one visitor does: open the page, upload a photo, wait until it is shown."""
    page.goto(url)
    page.get_by_test_id("answers").wait_for(timeout=SECONDS * 1000)
    shown = page.locator(".st-key-picture img")
    before = shown.get_attribute("src")
    page.locator('[data-testid="stFileUploaderDropzoneInput"]').set_input_files(
        {"name": name, "mimeType": "image/jpeg", "buffer": content}
    )
    page.wait_for_function(
        "before => { const image = document.querySelector('.st-key-picture img');"
        " return image && image.getAttribute('src') !== before && image.complete; }",
        arg=before,
        timeout=SECONDS * 1000,
    )


def visit(browser: Browser, served: Served, seed: int) -> None:
    """One visitor, from coming to leaving."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    try:
        open_photo(context.new_page(), served.url, photograph(seed), f"photo-{seed}.jpg")
    finally:
        context.close()


def readings(visitors: int, every: int) -> Iterator[dict[str, float]]:
    """The server's memory in MB and seconds since the first reading, after so many visitors."""
    port = free_port()
    command = [str(Path(sys.executable).parent / "flowcut"), "app", "--port", str(port)]
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        with serving(command, Path(folder), Path(folder) / "log.txt", port) as served:
            for seed in range(WARM_UP):
                visit(browser, served, seed)
            time.sleep(10)
            began = time.monotonic()
            for done in range(visitors + 1):
                if done:
                    visit(browser, served, WARM_UP + done)
                if done % every == 0:
                    seconds = time.monotonic() - began
                    yield {"visitors": done, "megabytes": served.resident_bytes() / 1e6, "seconds": seconds}
            time.sleep(60)
            seconds = time.monotonic() - began
            yield {"visitors": visitors, "megabytes": served.resident_bytes() / 1e6, "seconds": seconds}
        browser.close()


def report(rows: list[dict[str, float]]) -> str:
    """The table, as Markdown."""
    first, last = rows[0]["megabytes"], rows[-1]["megabytes"]
    lines = [
        "# What visitors leave behind",
        "",
        f"{rows[-1]['visitors']:.0f} visitors in a row, each with its own photo of {PHOTO[0]} x {PHOTO[1]} pixels.",
        f"Resident memory of the server: {first:.0f} MB after {WARM_UP} visitors to warm up, {last:.0f} MB a minute",
        f"after the last one: {last - first:+.0f} MB, {last / first:.2f} of the start.",
        "",
        f"Python {platform.python_version()}, Streamlit {version('streamlit')}.",
        "",
        "| visitors | MB | seconds |",
        "|-|-|-|",
    ]
    lines += [f"| {row['visitors']:.0f} | {row['megabytes']:.0f} | {row['seconds']:.0f} |" for row in rows]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, and write the table beside this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--visitors", type=int, default=200)
    parser.add_argument("--every", type=int, default=10, help="visitors between two readings")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".md"))
    wanted = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for row in readings(wanted.visitors, wanted.every):
        rows.append(row)
        print(json.dumps(row), flush=True)
    wanted.out.write_text(report(rows), encoding="utf-8")
    wanted.out.with_suffix(".json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
