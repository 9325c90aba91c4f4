"""What the page offers for a picture that is no drawn scene: the smallest published model that fits, in one click."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest
from streamlit.testing.v1 import AppTest

from benchmarks.visitors import photograph
from flowcut.models import fit
from flowcut.models.fit import Machine
from flowcut.published import published_models
from flowcut_lens.app.components.offer import KNOWS_SCENES_ONLY
from flowcut_lens.app.jobs.runtime import runtime
from flowcut_lens.scenes import draw
from tests import tiny
from tests.app.conftest import SECONDS, errors, settled, shown
from tests.models.hub_server import Hub, Repository, ask_instead

GB = 10**9
NAME = "llava-hf/llava-1.5-7b-hf"
"""Of the family of the tiny model that the hub of these tests has; the machine is made as large as needed."""


@pytest.fixture(autouse=True)
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    started = Hub()
    ask_instead(started, tmp_path / "cache", monkeypatch)
    started.repositories[NAME] = Repository(tiny.checkpoint(tmp_path / "tiny"))
    monkeypatch.setattr(fit, "published_models", lambda: tuple(m for m in published_models() if m.name == NAME))
    monkeypatch.setattr(fit, "machine", lambda may_import_torch=True: Machine("cpu", 100 * GB, 1000 * GB, tmp_path))
    loaded = runtime().models
    loaded._loaded = {name: model for name, model in loaded._loaded.items() if name != NAME}  # of the test before
    yield started
    started.close()


def upload(page: AppTest, content: bytes | None = None) -> AppTest:
    page.number_input("max_new_tokens").set_value(3).run()
    page.number_input("tokens").set_value(9).run()
    page.file_uploader[0].set_value(("photo.jpg", content or photograph(0, (320, 240)), "image/jpeg")).run()
    return settled(page)


def said(page: AppTest) -> str:
    return " ".join(box.value for box in (*page.markdown, *page.caption)).replace("\\", "")


def offers(page: AppTest) -> bool:
    return any(KNOWS_SCENES_ONLY in box.value for box in page.markdown)


def button(page: AppTest) -> str | None:
    return next((one.label for one in page.button if one.key == "take_offer"), None)


def test_size_memory_and_disk_are_said(page: AppTest) -> None:
    upload(page)
    assert button(page) == "Fetch llava-1.5-7b-hf and ask it: 14.1 GB"
    assert f"{NAME} is the smallest published model that fits this machine." in said(page)
    assert "weights take 14.1 GB or more of memory, 100 GB are free." in said(page)
    assert "On the disk 1000 GB are free." in said(page) or "On the disk 1.00 TB are free." in said(page)


def test_a_drawn_scene_that_was_saved_needs_no_other_model(page: AppTest) -> None:
    file = io.BytesIO()
    draw(9_000_001).image.save(file, "PNG")
    upload(page, file.getvalue())
    assert page.session_state.picture.seed is None
    assert not offers(page)
    assert button(page) is None


def test_no_offer_for_a_scene_or_with_another_model(page: AppTest) -> None:
    assert not offers(page)
    upload(page)
    assert offers(page)
    page.selectbox("model").select(NAME).run()
    assert not offers(page)


def test_one_click_fetches_and_answers(page: AppTest, hub: Hub) -> None:
    upload(page)
    page.button("take_offer").click().run()
    settled(page)
    assert not errors(page)
    assert shown(page).full.model_id == NAME
    assert shown(page).picture.name == "your picture"
    assert page.session_state.model == NAME
    page.selectbox("model").select("embedded").run()
    assert button(page) == "Ask llava-1.5-7b-hf, which is on this machine"
    assert "is the smallest published model of those that are here already" in said(page)


def test_stop_and_go_on(page: AppTest, hub: Hub) -> None:
    hub.repositories[NAME].seconds_a_piece = 0.3
    upload(page)
    page.button("take_offer").click().run()
    job = page.session_state.job
    deadline = time.monotonic() + SECONDS
    while not job.phase.startswith("Downloading") or (job.fraction or 0) < 0.1:
        assert time.monotonic() < deadline, job.phase
        time.sleep(0.05)
    page.button("stop").click().run()
    settled(page)
    assert f"Stopped fetching {NAME}: what has come of it is kept" in errors(page)[0].replace("\\", "")
    assert page.session_state.model == "embedded"
    assert (button(page) or "").startswith("Go on fetching llava-1.5-7b-hf and ask it: ")
    hub.repositories[NAME].seconds_a_piece = 0
    page.button("take_offer").click().run()
    settled(page)
    assert not errors(page)
    assert shown(page).full.model_id == NAME


def test_offline_is_said_before_anything_is_tried(page: AppTest, monkeypatch: pytest.MonkeyPatch, hub: Hub) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    upload(page)
    assert button(page) is None
    assert "HF_HUB_OFFLINE is set and no published model that fits is on this machine" in said(page)


def test_no_network_is_one_sentence_and_the_page_goes_on(page: AppTest, monkeypatch: pytest.MonkeyPatch) -> None:
    upload(page)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    page.button("take_offer").click().run()
    began = time.monotonic()
    settled(page)
    assert time.monotonic() - began < 15
    assert len(errors(page)) == 1
    assert "could not be fetched from the Hugging Face hub: check the network" in errors(page)[0].replace("\\", "")
    assert button(page) is not None
    assert page.session_state.model == "embedded"


def test_nothing_fits(page: AppTest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(fit, "machine", lambda may_import_torch=True: Machine("cpu", GB // 10, 1000 * GB, tmp_path))
    upload(page)
    assert button(page) is None
    assert "No published model fits this machine now (100 MB of memory and 1" in said(page)
