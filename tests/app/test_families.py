"""Other families on the page: a tiny random model of each, from its folder; tiles, merge groups, proxies."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image
from streamlit.testing.v1 import AppTest

from flowcut.media.picture import open_picture
from flowcut_lens.app.media.chosen import ChosenPicture
from flowcut_lens.app.sidebar import controls
from flowcut_lens.app.views.ask.flow import PROXY
from tests import tiny, tiny_gemma, tiny_qwen, tiny_qwen3, tiny_shuffle
from tests.app.conftest import MAIN, SECONDS, errors, run, settled, shown


def asked(folder: Path, tokens: int, monkeypatch: pytest.MonkeyPatch) -> AppTest:
    """The page after a wide picture of noise was put to the model in a folder."""
    # AppTest cannot type a new name into the box: let the folder be one of its names.
    monkeypatch.setattr(controls, "PUBLISHED", (str(folder),))
    page = settled(AppTest.from_file(str(MAIN), default_timeout=SECONDS).run())
    page.session_state.picture = ChosenPicture(open_picture(Image.effect_noise((300, 120), 80)), "your picture")
    page.number_input("tokens").set_value(tokens).run()
    page.selectbox("model").select(str(folder)).run()
    run(page)
    assert not errors(page)
    return page


def test_llava_next_tile_by_tile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = asked(tiny.next_checkpoint(tmp_path), 9, monkeypatch)
    answered = shown(page)
    assert answered.full.family == "LLaVA-NeXT"
    assert answered.cut.visual_tokens <= 2 * 9  # in the decoder's input; its second cut follows inside
    assert answered.cut.language_record is not None
    record = answered.full.record
    assert record is not None
    assert record.batch > 1
    tiles = page.selectbox(f"tile-{record.batch}")
    assert tiles.options[0] == record.geometries[0].view
    tiles.set_value(record.batch - 1).run()
    assert not page.exception
    assert not page.warning


@pytest.mark.parametrize("kind", [*tiny_qwen.KINDS, *tiny_qwen3.KINDS])
def test_qwen_with_its_proxy(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    family = tiny_qwen3 if kind in tiny_qwen3.KINDS else tiny_qwen
    page = asked(family.checkpoint(kind, tmp_path), 6, monkeypatch)
    answered = shown(page)
    # As released FlowCut cuts once more inside the decoder, where it can be cut.
    assert (answered.cut.visual_tokens, answered.control.visual_tokens) == (6 if kind == "Qwen3_5" else 12, 6)
    assert answered.full.visual_tokens > 12
    assert answered.cut.final_patch_ids is not None
    assert len(answered.cut.final_patch_ids) == 4 * 6
    assert (answered.cut.language_record is None) == (kind == "Qwen3_5")
    layers = page.selectbox("word-layer")
    assert layers.options[1] == ("layer 3" if kind == "Qwen3_5" else "layer 0")
    layers.set_value(1).run()
    assert answered.cut.record is not None
    assert answered.cut.record.relay == "proxy"
    assert PROXY in [box.value for box in page.info]
    assert not page.exception
    assert not page.warning


@pytest.mark.parametrize("kind", ["InternVL3", "SmolVLM"])
def test_tiles_and_thumbnail_of_a_pixel_shuffle(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = asked(tiny_shuffle.checkpoint(kind, tmp_path), 12, monkeypatch)
    answered = shown(page)
    assert answered.cut.visual_tokens == answered.control.visual_tokens == 12
    assert answered.full.visual_tokens > 12
    record = answered.cut.record
    assert record is not None
    assert record.relay == ("cls" if kind == "InternVL3" else "proxy")
    tiles = page.selectbox(f"tile-{record.batch}")
    assert tiles.options[-2:] == ["thumbnail", f"mean of all {record.batch}"]
    assert tiles.options[0] == "crop row 1, column 1"
    tiles.set_value(record.batch - 1).run()
    assert not page.exception
    assert not page.warning


@pytest.mark.parametrize("kind", ["PaliGemma2", "Gemma3"])
def test_siglip_towers_with_their_proxy(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = asked(tiny_gemma.checkpoint(kind, tmp_path), 6, monkeypatch)
    answered = shown(page)
    assert answered.cut.visual_tokens == answered.control.visual_tokens == 6
    assert answered.cut.record is not None
    assert answered.cut.record.patches_per_token == (16 if kind == "Gemma3" else 1)
    assert answered.cut.answer_attention is not None
    assert PROXY in [box.value for box in page.info]
    assert not page.exception
    assert not page.warning
