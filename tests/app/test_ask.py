"""The Ask page as Streamlit runs it, without a browser: what is on screen after what people do."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image
from streamlit.testing.v1 import AppTest

from flowcut_lens.app.media import gallery
from flowcut_lens.app.sidebar.controls import PUBLISHED
from flowcut_lens.app.state import session
from tests.app.conftest import MAIN, SECONDS, errors, run, settled, shown
from tests.media.test_images import bomb, encoded, gradient


def test_the_first_screen_shows_stored_answers(page: AppTest) -> None:
    assert shown(page).stored
    assert shown(page).full.question == gallery.entries()[0].question == page.text_area("question").value
    assert not page.error


def test_a_question_of_ones_own(page: AppTest) -> None:
    page.text_area("question").input("how many stars are there").run()
    run(page)
    assert shown(page).full.question == "how many stars are there"
    assert [one.visual_tokens for one in shown(page).runs] == [576, 64, 64]
    assert not errors(page)


def test_tokens_and_percent_follow_each_other(page: AppTest) -> None:
    page.number_input("tokens").set_value(192).run()
    assert page.number_input("percent").value == 33.3
    page.number_input("percent").set_value(50.0).run()
    assert page.number_input("tokens").value == 288
    run(page)
    assert [one.visual_tokens for one in shown(page).runs] == [576, 288, 288]


@pytest.mark.parametrize("method", ["flowcut", "random", "stride", "cls-attention"])
def test_every_method_can_be_chosen(page: AppTest, method: str) -> None:
    page.selectbox("method").select(method).run()
    run(page)
    kept = [one.cut for one in shown(page).runs[1:]]
    assert kept[0] is not None
    assert kept[0].method == method
    assert kept[0] != kept[1], "the control must be another draw"


def test_the_paper_variant(page: AppTest) -> None:
    page.session_state.variant = "paper"
    run(page)
    assert shown(page).cut.title == "FlowCut 64 (paper)"


@pytest.mark.parametrize("question", ["", "  \n ", "x" * 20_000])
def test_a_bad_question_keeps_the_last_good_answers(page: AppTest, question: str) -> None:
    before = shown(page)
    page.text_area("question").input(question).run()
    run(page)
    assert len(errors(page)) == 1
    assert shown(page) is before


@pytest.mark.parametrize(
    "question",
    ["<b>what</b> <script>alert(1)</script> colour is the star?", "ما لون النجمة؟", "🌟❓", "see <image> here"],
)
def test_odd_questions_are_asked_as_they_are(page: AppTest, question: str) -> None:
    page.text_area("question").input(question).run()
    run(page)
    assert not errors(page)
    assert shown(page).full.question == question
    assert shown(page).full.visual_tokens == 576


def test_a_model_that_cannot_be_loaded_leaves_the_old_one(page: AppTest) -> None:
    before = shown(page)
    page.selectbox("model").select(PUBLISHED[-1]).run()
    run(page)
    assert len(errors(page)) == 1
    assert "stays in use" in errors(page)[0]
    assert page.selectbox("model").value == "embedded"
    assert shown(page) is before
    run(page)
    assert not errors(page)


def test_a_new_scene_is_asked_about_at_once(page: AppTest) -> None:
    next(button for button in page.button if button.label == "New scene").click().run()
    settled(page)
    assert not shown(page).stored
    assert (shown(page).picture.seed or 0) >= session.DRAWN_SEEDS[0]


def test_a_suggestion_is_asked_at_once(page: AppTest) -> None:
    suggestion = page.button("suggestion-1")
    text = suggestion.label
    suggestion.click().run()
    settled(page)
    assert shown(page).full.question == text


def png(size: tuple[int, int]) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, "teal").save(buffer, "PNG")
    return buffer.getvalue()


def test_two_visitors_do_not_share_anything(page: AppTest) -> None:
    other = settled(AppTest.from_file(str(MAIN), default_timeout=SECONDS).run())
    page.session_state.picture = gallery.drawn_picture(77)
    page.text_area("question").input("Is there a ring?").run()
    run(page)
    other.run()
    assert shown(other).full.question == gallery.entries()[0].question
    assert other.session_state.picture.seed == gallery.entries()[0].seed


def upload(page: AppTest, name: str, content: bytes) -> AppTest:
    page.file_uploader[0].set_value((name, content, "image/png")).run()
    return settled(page)


@pytest.mark.parametrize("size", [(900, 120), (48, 700), (336, 336), (1, 1)])
def test_uploads_of_any_aspect(page: AppTest, size: tuple[int, int]) -> None:
    upload(page, "mine.png", png(size))
    assert any("knows drawn scenes only" in text.value for text in page.markdown)
    run(page)
    assert not errors(page)
    assert shown(page).full.image_size == size


REFUSED = {
    "words.png": (b"these are words", "BMP or TIFF file, or a video (MP4, "),
    "empty.png": (b"", "empty"),
    "cut.png": (png((300, 300))[:90], "damaged"),
    "bomb.png": (bomb(60_000, 60_000), "megapixels"),
    "thin.png": (png((10_000, 3)), "50 times"),
    "tall.png": (png((3, 10_000)), "50 times"),
}
TURNED = Image.Exif()
TURNED[0x0112] = 6
DEEP = Image.fromarray(np.arange(1200, dtype=np.uint16).reshape(30, 40) * 50)
MENDED = {
    "moving.gif": (
        encoded(gradient(), "GIF", save_all=True, append_images=[gradient("RGB").rotate(180)]), "animation", (40, 30),
    ),
    "print.jpg": (encoded(gradient("CMYK"), "JPEG"), "CMYK", (40, 30)),
    "deep.png": (encoded(DEEP), "16-bit", (40, 30)),
    "clear.png": (encoded(Image.new("RGBA", (40, 30), (9, 9, 9, 0))), "white", (40, 30)),
    "turned.jpg": (encoded(gradient(), "JPEG", exif=TURNED.tobytes()), "EXIF", (30, 40)),
    "point.png": (png((1, 1)), None, (1, 1)),
}  # fmt: skip


def test_bad_pictures_keep_the_last_good_answers(page: AppTest) -> None:
    before, picture = shown(page), page.session_state.picture
    for name, (content, sentence) in REFUSED.items():
        upload(page, name, content)
        assert len(errors(page)) == 1, name
        assert sentence in errors(page)[0].replace("\\", ""), name
        assert page.session_state.picture is picture
        assert shown(page) is before
    run(page)
    assert not errors(page)


def test_odd_pictures_are_taken_with_a_note_beside_the_last_good_answers(page: AppTest) -> None:
    before = shown(page)
    for name, (content, note, size) in MENDED.items():
        page.session_state.problem = "A picture before this one was refused."
        upload(page, name, content)
        assert not errors(page), name
        assert page.session_state.picture.image.size == size, name
        assert note is None or any(note in one for one in page.session_state.picture.notes), name
        assert all(one in [box.value for box in page.caption] for one in page.session_state.picture.notes)
        assert shown(page) is before
    run(page)
    assert not errors(page)
    assert shown(page).full.image_size == (1, 1)


@pytest.mark.parametrize("key", ["inside", "variant"])
def test_a_choice_of_nothing_is_none(page: AppTest, key: str) -> None:
    """What a browser sends that missed the run in which the box was filled."""
    page.segmented_control(key).set_value(None).run()
    settled(page)
    assert page.segmented_control(key).value is not None
    run(page)
    assert not errors(page)
    assert not page.exception
    assert getattr(shown(page).cut.cut, "variant", None) == "official"


def test_a_typed_question_stays_when_a_picture_is_uploaded(page: AppTest) -> None:
    page.text_area("question").set_value("Is there a purple ring in my own picture?").run()
    upload(page, "mine.png", png((60, 40)))
    assert page.text_area("question").value == "Is there a purple ring in my own picture?"
    page.text_area("question").set_value("").run()
    upload(page, "other.png", png((40, 60)))
    assert page.text_area("question").value == gallery.PHOTOGRAPH_QUESTIONS[0]
