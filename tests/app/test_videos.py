"""Video files on the Ask page: opened, asked about with a tiny model that takes them, or refused in one sentence."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from flowcut.media.video import open_video
from flowcut.published import MODEL_TYPES
from flowcut_lens.app.jobs import runtime
from flowcut_lens.app.media import videos
from flowcut_lens.app.media.chosen import ChosenPicture
from flowcut_lens.app.sidebar import controls
from flowcut_lens.app.views.compare.context import NO_VIDEOS
from tests import tiny, tiny_qwen, tiny_video
from tests.app.conftest import MAIN, SECONDS, errors, run, settled, shown
from tests.media.test_videos import SIZE, film

SPOKEN = 4
"""Tokens of an answer: random weights ramble, and a few show as much as many."""
STRIP = '<div class="lens-strip"'


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return bytes(Path(film(tmp_path_factory.mktemp("film") / "film.mp4")).read_bytes())


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A checkpoint of each family that takes videos, and of LLaVA-1.5, which takes none."""
    made = {kind: tiny_video.checkpoint(kind, tmp_path_factory.mktemp(kind)) for kind in tiny_video.KINDS}
    made |= {kind: tiny_qwen.checkpoint(kind, tmp_path_factory.mktemp(kind)) for kind in tiny_qwen.KINDS}
    made["Llava"] = tiny.checkpoint(tmp_path_factory.mktemp("llava"))
    return {kind: str(folder) for kind, folder in made.items()}


@pytest.fixture
def page(folders: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> AppTest:
    # AppTest cannot type a new name into the box: let the folders be among its names.
    monkeypatch.setattr(controls, "PUBLISHED", tuple(folders.values()))
    page = settled(AppTest.from_file(str(MAIN), default_timeout=SECONDS).run())
    deadline = time.monotonic() + SECONDS
    while not runtime.runtime().models.any_loaded:  # what models take is told only then
        assert time.monotonic() < deadline
        time.sleep(0.1)
    page.number_input("max_new_tokens").set_value(SPOKEN).run()
    return page


def upload(page: AppTest, content: bytes, name: str = "film.mp4") -> AppTest:
    page.file_uploader[0].set_value((name, content, "video/mp4")).run()
    return settled(page)


def asked(page: AppTest, folder: str, frames: int, tokens: int) -> AppTest:
    """The uploaded video, so many frames of it, put to the model in a folder."""
    page.selectbox("model").select(folder).run()
    page.number_input("frames").set_value(frames).run()
    page.number_input("tokens").set_value(tokens).run()
    return run(page)


def html(page: AppTest) -> str:
    return " ".join(one.proto.body for one in page.get("html"))


def picture(page: AppTest) -> ChosenPicture:
    found = page.session_state.picture
    assert isinstance(found, ChosenPicture)
    return found


@pytest.mark.parametrize("kind", [*tiny_video.KINDS, *tiny_qwen.KINDS])
def test_a_video_is_asked_about(kind: str, page: AppTest, folders: dict[str, str], content: bytes) -> None:
    upload(page, content)
    (note,) = (box.value for box in page.caption if "of the video" in box.value.lower())
    assert note.startswith("Of the video's 20 frames, 8 at even distances in time were taken: at 0, 0.2, ")
    assert html(page).count("<figcaption><b>") == 8
    assert 'alt="frame 4 at 0.7 s"' in html(page)
    asked(page, folders[kind], frames=4, tokens=6)
    assert not errors(page)
    answered = shown(page)
    assert answered.full.image_hash == open_video(content, 4).hash
    assert answered.full.image_size == SIZE
    assert len(answered.picture.frames) == 4
    # As released for Qwen FlowCut cuts once more inside the decoder: twice the budget reaches it, or all there are.
    twice = min(12, answered.full.visual_tokens) if kind in tiny_qwen.KINDS else 6
    assert [one.visual_tokens for one in answered.runs[1:]] == [twice, 6]
    record = answered.cut.record
    assert record is not None
    for part in (record.batch - 1, -1):  # the last frame, then the mean of all
        page.selectbox(f"tile-{record.batch}").set_value(part).run()
        assert not page.exception
        assert not page.warning
    assert "Full video" in html(page)
    heats = [str(image.proto.imgs[0].caption) for image in page.get("image") if image.proto.imgs]
    assert sum("frame" in caption for caption in heats) >= 2 * record.batch  # words panel: both runs, frame by frame


def test_what_is_asked_is_what_the_library_answers(page: AppTest, folders: dict[str, str], content: bytes) -> None:
    import flowcut

    upload(page, content)
    page.text_area("question").set_value("What happens?").run()
    asked(page, folders["VideoLlava"], frames=3, tokens=9)
    model = flowcut.load(folders["VideoLlava"])
    same = flowcut.ask(model, content, "What happens?", flowcut.FlowCut(tokens=9), max_new_tokens=SPOKEN, frames=3)
    ids = [[token.id for token in run.tokens] for run in (same, shown(page).cut)]
    assert ids[0] == ids[1]
    assert same.record is not None
    assert shown(page).cut.record is not None
    assert same.record.kept_patch_ids.tolist() == shown(page).cut.record.kept_patch_ids.tolist()


def test_a_model_of_pictures_says_so_and_loses_nothing(page: AppTest, folders: dict[str, str], content: bytes) -> None:
    before = shown(page)
    upload(page, content)
    told = page.info[0].value.replace("\\", "")
    assert "family LLaVA-1.5, which takes no videos" in told
    assert all(name in told for name in ("LLaVA-NeXT-Video", "Video-LLaVA", "Qwen2.5-VL", controls.FOR_VIDEOS[0]))
    for model in ("embedded", folders["Llava"]):
        page.selectbox("model").select(model).run()
        run(page)
        assert len(errors(page)) == 1
        assert "takes no videos" in errors(page)[0]
        assert not page.info, "said once"
        assert shown(page) is before
        assert len(picture(page).frames) == 8
    asked(page, folders["LlavaNextVideo"], frames=2, tokens=4)
    assert not errors(page)
    assert not page.info
    assert shown(page).full.family == "LLaVA-NeXT-Video"


def one_frame(folder: Path) -> bytes:
    return bytes(Path(film(folder / "one.mp4", frames=1)).read_bytes())


def test_bad_videos_keep_what_is_on_screen(page: AppTest, content: bytes, tmp_path: Path) -> None:
    before, chosen = shown(page), picture(page)
    refused = {
        "words.mp4": (b"these are words, not a video", "not a video that can be decoded"),
        "short.mp4": (content[: len(content) // 2], "not a video that can be decoded"),
        "empty.webm": (b"", "is empty"),
        "one.mov": (one_frame(tmp_path), "1 frame"),
    }
    for name, (bad, sentence) in refused.items():
        upload(page, bad, name)
        assert len(errors(page)) == 1, name
        assert sentence in errors(page)[0].replace("\\", ""), name
        assert errors(page)[0].count(". ") == 0, name
        assert picture(page) is chosen
        assert shown(page) is before
    upload(page, content)
    assert not errors(page)
    assert len(picture(page).frames) == 8


def test_too_many_frames_and_too_few_tokens(page: AppTest, folders: dict[str, str], content: bytes) -> None:
    before = shown(page)
    upload(page, content)
    page.selectbox("model").select(folders["VideoLlava"]).run()
    box = page.number_input("frames")
    assert box.label == "Frames to take (2 to 8)"
    for number in (9, 1):
        page.number_input("frames").set_value(number).run()
        assert f"takes 2 to 8 frames of a video, and {number} are asked for" in errors(page)[0]
        assert page.number_input("frames").value == 8
        assert len(picture(page).frames) == 8
    asked(page, folders["VideoLlava"], frames=4, tokens=3)
    assert "4 frames, each of which keeps at least one" in errors(page)[0].replace("\\", "")
    assert shown(page) is before
    asked(page, folders["LlavaNextVideo"], frames=9, tokens=12)
    assert not errors(page)
    good = shown(page)
    page.selectbox("model").select(folders["VideoLlava"]).run()  # which takes no more than 8
    assert "Video-LLaVA takes 2 to 8 frames of a video, and 9" in page.info[0].value.replace("\\", "")
    run(page)
    assert len(errors(page)) == 1
    assert shown(page) is good


def test_a_video_belongs_to_one_visitor_and_has_no_address(page: AppTest, content: bytes) -> None:
    other = settled(AppTest.from_file(str(MAIN), default_timeout=SECONDS).run())
    upload(page, content)
    other.run()
    assert picture(other).video is None
    assert STRIP not in html(other)
    assert STRIP in html(page)
    next(button for button in page.button if button.label == "New scene").click().run()
    settled(page)
    assert picture(page).video is None
    assert STRIP not in html(page)
    assert not page.exception


def test_a_video_is_opened_also_when_a_click_came_between(page: AppTest, content: bytes) -> None:
    page.session_state.waiting_video = videos.VideoFile("film.mp4", content)  # as an interrupted run leaves it
    page.run()
    assert len(picture(page).frames) == 8
    assert "waiting_video" not in page.session_state
    page.session_state.waiting_video = videos.VideoFile("film.mp4", content)
    next(button for button in page.button if button.label == "New scene").click().run()
    assert picture(page).video is None, "the last choice counts"
    settled(page)


def test_a_question_of_ones_own_stays_and_a_suggestion_gives_way(page: AppTest, content: bytes) -> None:
    upload(page, content)
    assert page.text_area("question").value == "What happens in the video?"
    page.text_area("question").set_value("Who runs?").run()
    page.number_input("frames").set_value(5)
    page.selectbox("model").select("embedded").run()
    upload(page, content, "again.mp4")
    assert page.text_area("question").value == "Who runs?"


def only_compare() -> None:
    """The main script with nothing but this page: AppTest cannot choose among pages that are functions."""
    from flowcut_lens.app.sidebar.sidebar import sidebar
    from flowcut_lens.app.state import session
    from flowcut_lens.app.views.compare import page

    session.begin()
    session.collect()
    sidebar()
    page.page()


def test_compare_says_that_it_is_of_pictures(page: AppTest, folders: dict[str, str], content: bytes) -> None:
    upload(page, content)
    asked(page, folders["VideoLlava"], frames=2, tokens=4)
    compare = settled(AppTest.from_function(only_compare, default_timeout=SECONDS).run())
    compare.session_state.comparison = shown(page)
    for section in ("methods", "depth", "causal", "sweep"):
        compare.session_state["section"] = section
        compare.run()
        assert NO_VIDEOS in [box.value for box in compare.info]
        assert not compare.exception


def test_limits_are_known_before_a_model_is_loaded(folders: dict[str, str], tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(runtime.Models, "any_loaded", False)
    assert videos.limits(folders["VideoLlava"]) is None
    monkeypatch.setattr(runtime.Models, "any_loaded", True)
    monkeypatch.setattr(runtime.Models, "get", lambda self, name: None)
    assert videos.limits(folders["VideoLlava"]) == videos.Limits("Video-LLaVA", 8, 8)
    assert videos.limits("llava-hf/LLaVA-NeXT-Video-7B-hf") == videos.Limits("LLaVA-NeXT-Video", 8, 32)
    assert videos.limits("embedded") == videos.Limits("LLaVA-1.5", 0, 0)
    for unknown in (str(tmp_path), "no/such-model", "a/b/c", "", "x" * 3000, "\0"):
        assert videos.limits(unknown) is None
    assert set(controls.FOR_VIDEOS) <= set(MODEL_TYPES)


def test_a_list_of_files_is_not_opened_for_a_visitor(page: AppTest, tmp_path: Path) -> None:
    before, chosen = shown(page), picture(page)
    (tmp_path / "secret.txt").write_text("words that nobody may see " * 20)
    for name in ("holiday.mp4", str(tmp_path / "x.mp4"), "http://127.0.0.1:9/x.mp4"):
        upload(page, f"ffconcat version 1.0\nfile '{tmp_path / 'secret.txt'}'\n".encode(), name)
        assert "not a video that can be decoded" in errors(page)[0].replace("\\", "")
        assert picture(page) is chosen
        assert shown(page) is before


def test_a_fault_in_opening_a_video_leaves_the_page_usable(
    page: AppTest, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any) -> None:
        raise AttributeError("'NoneType' object has no attribute 'width'")

    with monkeypatch.context() as broken:
        broken.setattr(videos, "open_video", fail)
        upload(page, content)
        assert "Something went wrong inside" in errors(page)[0]
    page.run()
    assert page.button("run"), "the sidebar is whole"
    run(page)
    assert not errors(page)
    upload(page, content, "again.mp4")
    assert len(picture(page).frames) == 8
