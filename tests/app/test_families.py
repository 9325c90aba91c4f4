"""Other families on the page: a tiny random model of each, from its folder, tile by tile."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image
from streamlit.testing.v1 import AppTest

from app.comparison import Picture
from app.widgets import controls
from tests import tiny
from tests.app.conftest import MAIN, SECONDS, errors, run, settled, shown


@pytest.fixture(scope="module")
def next_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.next_checkpoint(tmp_path_factory.mktemp("next"))


def test_llava_next_tile_by_tile(next_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # AppTest cannot type a new name into the box: let the folder be one of its names.
    monkeypatch.setattr(controls, "PUBLISHED", (str(next_folder),))
    page = settled(AppTest.from_file(str(MAIN), default_timeout=SECONDS).run())
    page.session_state.picture = Picture(Image.effect_noise((300, 120), 80).convert("RGB"), "your picture")
    page.number_input("tokens").set_value(9).run()
    page.selectbox("model").select(str(next_folder)).run()
    run(page)
    assert not errors(page)
    answered = shown(page)
    assert answered.full.family == "LLaVA-NeXT"
    assert answered.cut.visual_tokens <= 2 * 9  # at the decoder's door; its second cut follows inside
    assert answered.cut.language_record is not None
    record = answered.full.record
    assert record is not None
    assert record.batch > 1
    tiles = page.selectbox(f"tile-{record.batch}")
    assert tiles.options[0] == record.geometries[0].part
    tiles.set_value(record.batch - 1).run()
    assert not page.exception
    assert not page.warning
