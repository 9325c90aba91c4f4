"""The page with a model whose vision encoder is not read: answers, what is missing, a mask where one can be drawn."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from streamlit.testing.v1 import AppTest

from flowcut.media.picture import open_picture
from flowcut.records.unread import NO_PLACES
from flowcut_lens.app.media.chosen import ChosenPicture
from flowcut_lens.app.sidebar import controls
from flowcut_lens.app.views.ask.unread import HOW_TO_READ, MISSING
from tests import tiny_generic
from tests.app.conftest import MAIN, SECONDS, errors, run, settled, shown


def asked(folder: Path, method: str, monkeypatch: pytest.MonkeyPatch) -> AppTest:
    monkeypatch.setattr(controls, "PUBLISHED", (str(folder),))
    page = settled(AppTest.from_file(str(MAIN), default_timeout=SECONDS).run())
    page.session_state.picture = ChosenPicture(open_picture(Image.effect_noise((120, 90), 80)), "your picture")
    page.number_input("tokens").set_value(9).run()
    page.selectbox("method").select(method).run()
    page.selectbox("model").select(str(folder)).run()
    return run(page)


def plain(text: str) -> str:
    """What the page shows of text whose marks were escaped."""
    return text.replace("\\", "")


@pytest.mark.parametrize(
    ("make", "drawn"),
    [(tiny_generic.vipllava_checkpoint, False), (tiny_generic.stretched_checkpoint, True)],
    ids=["cropped", "one grid"],
)
def test_answers_and_what_is_missing(
    make: Callable[[Path], Path], drawn: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = asked(make(tmp_path), "divprune", monkeypatch)
    assert not errors(page)
    answered = shown(page)
    assert [one.visual_tokens for one in answered.runs] == [64, 9, 9]
    assert answered.full.family == "VipLlava (generic)"
    (said,) = [box.value for box in page.info]
    assert "is not read" in said
    assert MISSING in plain(said)
    captions = [plain(caption.value) for caption in page.caption]
    assert (HOW_TO_READ in captions) == drawn
    assert (NO_PLACES in captions) != drawn
    assert not page.exception
    assert not page.warning


def test_a_method_that_looks_into_the_encoder_is_refused_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = asked(tiny_generic.vipllava_checkpoint(tmp_path), "flowcut", monkeypatch)
    (sentence,) = errors(page)
    assert "FlowCut looks into the vision encoder, which is not read in VipLlava (generic) models" in plain(sentence)
