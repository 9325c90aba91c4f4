"""However and wherever it is started, the app is the same: this machine only, nothing sent anywhere, no tools on show.

Every page and section is opened, and the first question asked. The folder where it is started holds folders of the
user's that are called like ours, each of which leaves a mark when it is imported.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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
FOLDERS = ("analysis", "app", "cli", "scenes")
"""Those above the library: packages `flowcut_lens.*` once installed."""
MARK = "imported"
THEIRS = f"from pathlib import Path\n\nPath(__file__).with_name({MARK!r}).touch()\nOWNER = 'user'\n"
"""The `__init__.py` of a user's own folder."""
SCRIPT = """
from pathlib import Path

import flowcut
from PIL import Image

assert all(getattr(flowcut, name) is not None for name in dir(flowcut))
cut = flowcut.FlowCut(tokens=64)
run = flowcut.ask(flowcut.load("embedded"), Image.new("RGB", (336, 336)), "Is there a ring?", cut=cut)
assert run.answer
assert list(Path.cwd().rglob("imported")) == [], "flowcut imported a folder of the user's"

import app

assert app.OWNER == "user"
"""
TORCH = next(
    row.split(" := ")[1] for row in (ROOT / "Makefile").read_text().splitlines() if row.startswith("TORCH := ")
)


def run(*command: str | Path, **options: Any) -> None:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]


def own_folders(folder: Path) -> Path:
    """The folder, with packages of the user's in it that are called like ours, and a main.py in each."""
    for name in FOLDERS:
        (folder / name).mkdir()
        for file in ("__init__.py", "main.py"):
            (folder / name / file).write_text(THEIRS)
    return folder


def imported(folder: Path) -> list[str]:
    """Which of the user's own packages have been imported."""
    return sorted(mark.parent.name for mark in folder.rglob(MARK))


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
    """The app, started in a user's folder: by the checkout's command, as a script, and from the wheel."""
    port, folder = free_port(), own_folders(tmp_path_factory.mktemp("theirs"))
    home, log = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("log") / "log.txt"
    if request.param == "script":
        command = [sys.executable, "-m", "streamlit", "run", str(ROOT / "app" / "main.py"), "--server.port", str(port)]
    else:
        flowcut = FLOWCUT if request.param == "checkout" else request.getfixturevalue("installed") / "flowcut"
        command = [str(flowcut), "app", "--port", str(port)]
    # As on a stranger's machine: no settings of theirs, and on the path their folder instead of this checkout.
    with serving(command, folder, log, port, HOME=str(home), PYTHONPATH=str(folder)) as served:
        yield served
    assert imported(folder) == []
    assert sorted(path.name for path in folder.iterdir()) == sorted(FOLDERS)  # nothing has been written there either


def test_started_elsewhere_every_page_works(elsewhere: Served, browser: Browser) -> None:
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


def test_the_model_is_loaded_before_anybody_opens_the_page(tmp_path: Path) -> None:
    port, library = free_port(), "libtorch_cpu"
    with serving([str(FLOWCUT), "app", "--port", str(port)], tmp_path, tmp_path / "log.txt", port) as served:
        deadline = time.monotonic() + ANSWER_SECONDS
        while library not in Path(f"/proc/{served.process.pid}/maps").read_text():
            assert time.monotonic() < deadline
            time.sleep(0.1)


def test_a_script_beside_folders_that_are_called_like_ours(installed: Path, tmp_path: Path) -> None:
    """`import flowcut` and all that it brings in runs nothing of the user's; `import app` gives theirs."""
    script = own_folders(tmp_path) / "script.py"
    script.write_text(SCRIPT)
    run(installed / "python", script, cwd=tmp_path, env={**os.environ, "PYTHONPATH": "", "HF_HUB_OFFLINE": "1"})
    assert imported(tmp_path) == ["app"]


def test_the_wheel_holds_two_packages_with_every_file_of_their_folders(wheel: Path) -> None:
    """Scripts, styles and settings too, and no package of another name."""
    with zipfile.ZipFile(wheel) as archive:
        inside = set(archive.namelist())
    facts = "-".join(wheel.name.split("-")[:2]) + ".dist-info"
    assert {name.partition("/")[0] for name in inside} == {"flowcut", "flowcut_lens", facts}
    known = subprocess.run(["git", "ls-files", "flowcut", "assets", *FOLDERS], cwd=ROOT, capture_output=True, text=True)
    files = [name for name in known.stdout.splitlines() if (ROOT / name).is_file()]
    assert {Path(name).suffix for name in files} >= {".py", ".pyi", ".css", ".html", ".js", ".toml"}
    assert [name for name in files if installed_name(name) not in inside] == []


def installed_name(name: str) -> str:
    """Where a file of the repository lies in the wheel."""
    folder = name.partition("/")[0]
    return f"flowcut_lens/{name}" if folder in FOLDERS else f"flowcut/{name}" if folder == "assets" else name
