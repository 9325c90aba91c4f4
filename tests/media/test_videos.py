"""Videos in: files decoded by PyAV, sequences, and one sentence for each that cannot be used; asked from end to end."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

import flowcut
from flowcut.media.video import MAX_FRAMES, is_video, open_video
from flowcut_lens.cli import main
from tests import tiny, tiny_video

SIZE = (64, 48)


def film(path: Any, frames: int = 20) -> Any:
    """Write a video whose frames get brighter by 10 from each to the next."""
    with av.open(path, "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv420p"
        for place in range(frames):
            grey = np.full((SIZE[1], SIZE[0], 3), 10 * place, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(grey, format="rgb24")))
        container.mux(stream.encode())
    return path


@pytest.fixture(scope="module")
def path(tmp_path_factory: Any) -> Path:
    return Path(film(tmp_path_factory.mktemp("film") / "film.mp4"))


def test_frames_at_even_distances(path: Path) -> None:
    video = open_video(path, 8)
    assert video.size == SIZE
    wanted = [0, 2, 5, 7, 10, 12, 15, 17]
    assert [round(float(np.asarray(frame).mean()) / 10) for frame in video.frames] == wanted
    assert video.seconds == tuple(place / 10 for place in wanted)
    assert video.frames_a_second == pytest.approx(7 / 1.7)
    (note,) = video.notes
    at = "at 0, 0.2, 0.5, 0.7, 1, 1.2, 1.5 and 1.7 s"
    assert note == f"Of the video's 20 frames, 8 at even distances in time were taken: {at}."
    assert len(open_video(path, 30).frames) == 20
    assert open_video(path, 30).notes == ()


def test_a_video_comes_in_every_form(path: Path) -> None:
    content, whole = path.read_bytes(), open_video(path, 4)
    with path.open("rb") as file:
        for source in (str(path), content, io.BytesIO(content), file, whole, list(whole.frames), whole.array()):
            assert is_video(source) or isinstance(source, io.BytesIO)
            assert open_video(source, 4).hash == whole.hash
    assert not is_video(Path("picture.png"))
    assert not is_video(tiny.picture())
    assert not is_video(b"\x00\x00\x00\x1cftypavif----")
    assert open_video(whole.array()[:3], 4).hash != whole.hash


def test_frames_stand_upright(tmp_path: Path) -> None:
    """A telephone held upright writes lying frames, and a matrix that turns them clockwise: left comes to the top."""
    lying = np.zeros((48, 64, 3), np.uint8)
    lying[:, 32:] = 255
    written = io.BytesIO()
    with av.open(written, "w", format="mp4") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for _ in range(3):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(lying, format="rgb24")))
        container.mux(stream.encode())
    content = bytearray(written.getvalue())
    matrix = content.index(b"tkhd") + 44
    content[matrix : matrix + 36] = struct.pack(">9i", 0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30)
    video = open_video(bytes(content), 2)
    assert video.size == (48, 64)
    shown = np.asarray(video.frames[0]).mean(axis=(1, 2))
    assert shown[:28].max() < 20
    assert shown[36:].min() > 235


BLACK = np.zeros((8, 8, 3), np.uint8)


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ([], "no frames: give at least 2"),
        (np.zeros((0, 8, 8, 3), np.uint8), "no frames"),
        ([BLACK], "1 frame: ask about it as a picture"),
        ([BLACK] * 9, "9 frames, and at most 8"),
        ([BLACK, BLACK[:4]], "8 x 8 and 8 x 4 pixels"),
        ([BLACK, "no.png"], "No picture at no.png"),
        (b"", "empty"),
        (b"\x00\x00\x00\x18ftypisom" + b"no film" * 40, "cannot be decoded|can be decoded"),
        ("/nowhere/film.mp4", "no such file"),
        (7, "is a int: give a path"),
    ],
    ids=["none", "no array", "one", "nine", "sizes", "path", "empty", "broken", "missing", "number"],
)
def test_what_cannot_be_used_is_told_in_a_sentence(source: Any, sentence: str) -> None:
    with pytest.raises(flowcut.InvalidPicture, match=sentence) as told:
        open_video(source)
    assert str(told.value).count(". ") == 0


def test_broken_files(path: Path, tmp_path: Path, monkeypatch: Any) -> None:
    content = path.read_bytes()
    cut_short = tmp_path / "short.mp4"
    cut_short.write_bytes(content[: len(content) // 2])
    with pytest.raises(flowcut.InvalidPicture, match=r"short\.mp4 is (not a video|damaged)"):
        open_video(cut_short)
    one = film(tmp_path / "one.mp4", frames=1)
    with pytest.raises(flowcut.InvalidPicture, match="has 1 frame"):
        open_video(one)
    with av.open(tmp_path / "sound.mp4", "w") as container:
        stream = container.add_stream("aac", rate=8000)
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        silence.sample_rate = 8000
        container.mux(stream.encode(silence))
        container.mux(stream.encode())
    with pytest.raises(flowcut.InvalidPicture, match="holds no pictures"):
        open_video(tmp_path / "sound.mp4")
    monkeypatch.setattr("flowcut.media.video.MAX_TAKEN_PIXELS", 5 * SIZE[0] * SIZE[1])
    assert len(open_video(path, 5).frames) == 5
    with pytest.raises(flowcut.InvalidPicture, match="of which 6 are too many: take at most 5"):
        open_video(path, 6)
    monkeypatch.setattr("flowcut.media.video.MAX_FRAMES", 19)
    with pytest.raises(flowcut.InvalidPicture, match="lasts more than 19 frames: at most 10 minutes"):
        open_video(path)
    assert MAX_FRAMES > 19
    with pytest.raises(flowcut.InvalidPicture, match="take at most 8"):
        open_video(path, 9, most=8)


@pytest.mark.parametrize("kind", tiny_video.KINDS)
def test_asked_from_a_folder_and_the_command_line(kind: str, path: Path, tmp_path: Path, capsys: Any) -> None:
    folder = tiny_video.checkpoint(kind, tmp_path / "model")
    loaded = flowcut.load(folder)
    whole = flowcut.ask(loaded, path, "What <video> happens?", max_new_tokens=4, frames=3)
    video, processor = open_video(path, 3), tiny_video.processor(kind)
    inputs = processor(videos=[video.array()], text=[whole.prompt], return_tensors="pt")
    stock = loaded.model.generate(**inputs, max_new_tokens=4, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    assert [token.id for token in whole.tokens] == stock.tolist()
    assert whole.image_hash == video.hash
    assert any("'<video>' in the question" in note for note in whole.notes)
    run = flowcut.ask(loaded, list(video.frames), "What happens?", flowcut.FlowCut(tokens=12), max_new_tokens=4)
    assert run.visual_tokens == 12
    assert run.record is not None
    assert [geometry.view for geometry in run.record.geometries] == ["frame 1", "frame 2", "frame 3"]
    assert run.tower_tokens == (96 if kind == "LlavaOnevision" else 12)  # whose tokens are pooled from half of a frame
    asked = ["ask", str(path), "What happens?", "--model", str(folder), "--frames", "3", "--tokens", "12"]
    assert main.main([*asked, "--max-new-tokens", "4", "--out", str(tmp_path / "out")]) == 0
    assert {mask.name for mask in (tmp_path / "out").glob("mask*")} == {f"mask-frame-{n}.png" for n in (1, 2, 3)}
    assert Image.open(tmp_path / "out" / "mask-frame-2.png").size == SIZE
    capsys.readouterr()
    assert main.main([*asked, "--tokens", "2"]) == 2
    assert "this video is 3 frames, each of which keeps at least one: choose 3 or more" in capsys.readouterr().err
    with pytest.raises(flowcut.InvalidPicture, match="frames is 99: take at most"):
        flowcut.ask(loaded, path, "What happens?", frames=99)
    with pytest.raises(flowcut.InvalidPicture, match="frames is for videos"):
        flowcut.ask(loaded, tiny.picture(), "What happens?", frames=2)
    with pytest.raises(flowcut.InvalidCut, match="sees this video as"):
        flowcut.ask(loaded, path, "What happens?", flowcut.FlowCut(tokens=4000), frames=3)


def test_a_list_of_files_is_refused_on_the_command_line_too(tmp_path: Path, capsys: Any) -> None:
    folder, words = tiny_video.checkpoint("VideoLlava", tmp_path / "model"), tmp_path / "secret.txt"
    words.write_text("words that nobody may see " * 20)
    holiday = tmp_path / "holiday.mp4"
    holiday.write_text(f"ffconcat version 1.0\nfile {words.name}\n")
    asked = ["ask", str(holiday), "What happens?", "--model", str(folder), "--out", str(tmp_path / "out")]
    assert main.main(asked) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert "holiday.mp4 is not a video that can be decoded" in told.err
    assert not (tmp_path / "out").exists()
    with pytest.raises(flowcut.InvalidPicture, match="is not a video that can be decoded"):
        flowcut.ask(flowcut.load(folder), holiday, "What happens?")


def test_a_picture_asked_of_a_model_of_videos(tmp_path: Path) -> None:
    loaded = flowcut.load(tiny_video.checkpoint("VideoLlava", tmp_path))
    run = flowcut.ask(loaded, tiny.picture(), "What is it?", flowcut.FlowCut(tokens=9), max_new_tokens=4)
    assert run.visual_tokens == 9
    assert run.record is not None
    assert run.record.geometries[0].view == "picture"


def test_models_without_videos_say_so(path: Path, tmp_path: Path) -> None:
    loaded = flowcut.load(tiny.checkpoint(tmp_path))
    with pytest.raises(flowcut.InvalidPicture, match=r"LLaVA-1\.5 takes no videos"):
        flowcut.ask(loaded, path, "What happens?")
