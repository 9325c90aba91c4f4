"""However and wherever it is started, the app is the same: this machine only, nothing sent anywhere, no tools on show.

Every page and section is opened, and the first question asked.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from benchmarks.serving import LOCAL, Served, free_port, serving
from tests.browser.conftest import ANSWER_SECONDS, FLOWCUT, ROOT, ask, idle, visitors
from tests.browser.test_compare import compare, finished

pytestmark = pytest.mark.timeout(900)  # a whole environment is made, torch among it
DEVELOPERS = ("stAppDeployButton", "stToolbarActions", "stStatusWidgetRunningIcon")
SECTIONS = (
    "Methods", "Agreement", "CLS as a proxy", "Flow by depth", "Causal check", "Ground truth", "Rescue and drop",
    "Budget sweep",
)  # fmt: skip
TORCH = next(
    row.split(" := ")[1] for row in (ROOT / "Makefile").read_text().splitlines() if row.startswith("TORCH := ")
)


def run(*command: str | Path) -> None:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of what git knows of this checkout, and of nothing else that lies in it."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    known = subprocess.run(["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True).stdout
    for name in known.decode().strip("\0").split("\0"):
        if (ROOT / name).is_file() and not name.startswith(("tests/", "benchmarks/", "training/")):
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, source / name)
    run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", out, source)
    (made,) = out.glob("*.whl")
    return made


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of commands of an environment in which there was nothing before the wheel and what it asks for.

    With the tested versions; of torch the build that `make setup` takes, since the default one brings gigabytes.
    """
    commands = tmp_path_factory.mktemp("empty") / "venv" / "bin"
    run(sys.executable, "-m", "venv", commands.parent)
    pip = (commands / "python", "-m", "pip", "install", "-q", "--disable-pip-version-check")
    taken = subprocess.run([str(part) for part in (*pip, "--no-index", "--no-deps", TORCH)], capture_output=True)
    if taken.returncode:  # no such file on this machine's own index
        run(*pip, TORCH, "--extra-index-url", "https://download.pytorch.org/whl/cpu")
    run(*pip, "--constraint", ROOT / "requirements.txt", f"{wheel}[app,video]")
    return commands


@pytest.fixture(scope="module", params=["checkout", "script", "wheel"])
def elsewhere(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The app, started in an empty folder: by the checkout's command, as a script, and from the wheel."""
    port, folder, log = free_port(), tmp_path_factory.mktemp("empty"), tmp_path_factory.mktemp("log") / "log.txt"
    if request.param == "script":
        command = [sys.executable, "-m", "streamlit", "run", str(ROOT / "app" / "main.py"), "--server.port", str(port)]
    else:
        flowcut = FLOWCUT if request.param == "checkout" else request.getfixturevalue("installed") / "flowcut"
        command = [str(flowcut), "app", "--port", str(port)]
    # As on a stranger's machine: no settings of theirs, and nothing of this checkout on the path.
    with serving(command, folder, log, port, HOME=str(folder), PYTHONPATH="") as served:
        yield served
        assert [path.name for path in folder.iterdir() if path.name not in (".cache", ".streamlit")] == []


def test_started_in_an_empty_folder(elsewhere: Served, browser: Browser) -> None:
    with visitors(browser, elsewhere.url) as visit:
        page = visit()
        assert elsewhere.listens_on() == {LOCAL}
        for part in DEVELOPERS:
            expect(page.get_by_test_id(part)).to_have_count(0)
        ask(page, "Is there a ring?")
        expect(page.get_by_test_id("stFullScreenFrame").or_(page.locator(".lens-stage, canvas")).first).to_be_visible()
        for section in SECTIONS:
            compare(page, section)
            expect(page.locator("h2.lens-section")).to_be_visible(timeout=ANSWER_SECONDS * 1000)
            if section == "Methods":
                finished(page)
            expect(page.get_by_test_id("stException")).to_have_count(0)
        painter = visit("/compare?section=rescue&scene=3&tokens=32")
        expect(painter.locator(".painter canvas")).to_have_attribute("data-kept", "32", timeout=ANSWER_SECONDS * 1000)
        other = visit("/?method=cls-attention&tokens=32")
        expect(other.get_by_test_id("answers")).to_be_visible(timeout=ANSWER_SECONDS * 1000)
        idle(other)


def test_an_error_on_the_server_shows_no_visitor_its_insides(elsewhere: Served, browser: Browser) -> None:
    """Whatever path is asked for, what comes back holds no traceback and no folder of this machine."""
    page = browser.new_page()
    for path in ("/nowhere", "/compare?scene=-1&patch=x", "/?tokens=9999999999999", "/_stcore/host-config"):
        answer = page.goto(elsewhere.url + path)
        assert answer is not None
        page.wait_for_timeout(300)
        shown = page.content()
        assert "Traceback" not in shown
        assert str(ROOT) not in shown
    page.close()


def test_the_server_ends_with_its_process(tmp_path: Path) -> None:
    """`flowcut app` is the server itself: a signal to it leaves nothing behind that still holds the port."""
    port = free_port()
    with serving([str(FLOWCUT), "app", "--port", str(port)], tmp_path, tmp_path / "log.txt", port) as served:
        assert served.listens_on() == {LOCAL}
    deadline = time.monotonic() + 10
    while served.listens_on() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not served.listens_on()


def test_the_wheel_holds_every_file_of_its_rooms(wheel: Path) -> None:
    """Scripts, styles and settings too: each kind of file was once forgotten."""
    import zipfile

    with zipfile.ZipFile(wheel) as archive:
        inside = set(archive.namelist())
    known = subprocess.run(["git", "ls-files", "app", "flowcut", "analysis", "scenes"], cwd=ROOT, capture_output=True)
    missing = [name for name in known.stdout.decode().splitlines() if (ROOT / name).is_file() and name not in inside]
    assert missing == []
