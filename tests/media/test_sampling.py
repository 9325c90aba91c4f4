"""Which frames of a video file are taken, when they are shown, and that they stand as a player would show them."""

from __future__ import annotations

import io
import struct
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

import flowcut
from flowcut.media.containers import recognised
from flowcut.media.frames import upright
from flowcut.media.sampling import timeline, wanted_times
from flowcut.media.video import is_video, open_video
from flowcut_lens.cli import main
from tests import tiny_video

MS = Fraction(1, 1000)
STEP = 8


def film(
    kind: str = "mp4", coder: str = "mpeg4", times: Sequence[int] = range(0, 2000, 100), *, rate: int = 10,
    size: tuple[int, int] = (64, 48), pictures: Sequence[np.ndarray] | None = None, shape: Fraction | None = None,
    options: dict[str, str] | None = None,
) -> bytes:  # fmt: skip
    """A video whose frames, shown at these milliseconds, get brighter by STEP from each to the next."""
    written = io.BytesIO()
    with av.open(written, "w", format=kind) as container:
        stream = container.add_stream(coder, rate=rate)
        stream.width, stream.height, stream.pix_fmt, stream.options = *size, "yuv420p", options or {}
        if any(time % (1000 // rate) for time in times):
            stream.codec_context.time_base = MS
        if shape is not None:
            stream.codec_context.sample_aspect_ratio = shape
        for place, time in enumerate(times):
            grey = np.full((size[1], size[0], 3), STEP * place % 256, np.uint8)
            frame = av.VideoFrame.from_ndarray(grey if pictures is None else pictures[place], format="rgb24")
            frame.pts, frame.time_base = time, MS
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return written.getvalue()


def greys(video: flowcut.Video) -> list[int]:
    """Which frames were taken, by their brightness."""
    return [round(float(np.asarray(frame).mean()) / STEP) for frame in video.frames]


def trimmed(whole: bytes, seconds: float) -> bytes:
    """Cut without coding anew: from the keyframe before the cut on, and an edit list that hides what is too early."""
    written = io.BytesIO()
    hide = {"avoid_negative_ts": "disabled", "use_editlist": "1"}
    with av.open(io.BytesIO(whole)) as source, av.open(written, "w", format="mp4", options=hide) as out:
        stream = source.streams.video[0]
        copy, cut = out.add_stream_from_template(stream), int(seconds / stream.time_base)
        for packet in source.demux(stream):
            if packet.dts is not None:
                packet.pts, packet.dts, packet.stream = packet.pts - cut, packet.dts - cut, copy
                out.mux(packet)
    return written.getvalue()


@pytest.mark.parametrize(
    ("coder", "options"),
    [("libx264", {"g": "80"}), ("mpeg4", {"g": "80", "qmax": "2"}), ("libx265", {"x265-params": "log-level=none"})],
)
def test_what_an_edit_list_hides_is_no_damage(coder: str, options: dict[str, str]) -> None:
    whole = film("mp4", coder, range(0, 2000, 100), options=options)
    video = open_video(trimmed(whole, 1.2), 8)
    assert greys(video) == [12, 13, 14, 15, 16, 17, 18, 19]
    assert video.seconds == pytest.approx([place / 10 for place in range(8)])
    assert video.notes == ()
    few = open_video(trimmed(whole, 1.2), 4)
    assert greys(few) == [12, 14, 16, 18]
    assert few.notes[0].startswith(
        "Of the video's 8 frames, 4 at even distances in time were taken: at 0, 0.2, 0.4 and 0.6"
    )


VARIABLE = (*range(0, 1000, 50), *range(1000, 10_000, 1000))
"""Twenty frames in the first second, one a second after it: ten seconds."""


@pytest.mark.parametrize(
    ("kind", "coder"), [("mp4", "mpeg4"), ("matroska", "libx264"), ("webm", "libvpx"), ("mov", "libx264")]
)
def test_a_variable_frame_rate_is_sampled_by_time(kind: str, coder: str) -> None:
    video = open_video(film(kind, coder, VARIABLE), 5)
    assert video.seconds == pytest.approx([0, 2, 4, 6, 8], abs=1.01)
    assert greys(video) == [0, *(19 + round(seconds) for seconds in video.seconds[1:])]
    (note,) = video.notes
    at = ", ".join(f"{round(seconds)}" for seconds in video.seconds[:4])
    assert note.startswith(f"Of the video's 29 frames, 5 at even distances in time were taken: at {at} and ")


def test_where_nothing_new_is_shown_a_frame_is_taken_again() -> None:
    video = open_video(film("matroska", "libx264", (0, 100, 200, 300, 400, 8000, 8100)), 5)
    assert greys(video) == [0, 4, 4, 4, 4]
    assert video.seconds is not None
    assert list(video.seconds) == sorted(set(video.seconds))
    (note,) = video.notes
    assert "3 of them show again what was shown before" in note
    assert len(open_video(film("matroska", "libx264", (0, 100, 8000)), 5).frames) == 3, "all there are, each once"


@pytest.mark.parametrize(
    ("kind", "coder"),
    [("mp4", "libx264"), ("mov", "libx264"), ("matroska", "libx264"), ("avi", "libx264"), ("mpegts", "libx264"),
     ("flv", "libx264"), ("mp4", "libx265"), ("webm", "libvpx"), ("webm", "libvpx-vp9"), ("asf", "msmpeg4"),
     ("3gp", "mpeg4"), ("vob", "mpeg2video")],
)  # fmt: skip
def test_the_same_frames_whatever_the_container(kind: str, coder: str) -> None:
    """With frames that are stored in another order than shown, hidden ones, and clocks that begin anywhere."""
    options = {"x265-params": "log-level=none"} if coder == "libx265" else {}
    options |= {"auto-alt-ref": "1", "lag-in-frames": "16"} if "vpx" in coder else {}
    times = range(0, 1000, 40)  # 25 a second, which every container can say
    video = open_video(film(kind, coder, times, rate=25, size=(128, 96), options=options), 5)
    assert greys(video) == [0, 5, 10, 15, 20]
    assert video.seconds == pytest.approx([0, 0.2, 0.4, 0.6, 0.8], abs=0.002)


def test_times_that_make_no_sense_are_not_believed() -> None:
    """Two recordings in one: the clock begins again."""
    part = film("mpegts", "mpeg2video", range(0, 400, 40), rate=25, size=(128, 96))
    video = open_video(part + part, 4)
    assert greys(video) == [0, 5, 0, 5]
    assert video.seconds is None
    (note,) = video.notes
    assert note.startswith("Of the video's 20 frames, 4 were taken at even distances by their number: the times")


def test_timelines() -> None:
    line = timeline([(time, time, 40) for time in (0, 40, 120)], MS, "mov", 600)
    assert (line.times, line.end, line.unit, line.by_number) == ((0, 40, 120), 160, MS, False)
    assert wanted_times(line, 2) == [0, 80]
    assert line.seconds(120) == 0.12
    for odd in ([(None, None, 1)] * 3, [(0, 0, 1), (9, 9, 1), (3, 3, 1)], [(0, 0, 1), (10**9, 10**9, 1)], [(5, 5, 0)]):
        line = timeline(odd, MS, "mov", 600)
        assert (line.times, line.unit) == (tuple(range(len(odd))), None)
    assert timeline([(0, 0, 0), (2, 1, 0)], None, "mov", 600).unit is None


@pytest.mark.parametrize(
    ("kind", "coder"), [("matroska", "mpeg4"), ("avi", "mpeg4"), ("mpegts", "mpeg2video"), ("flv", "flv")]
)
def test_a_file_that_ends_early_is_a_shorter_video(kind: str, coder: str) -> None:
    """As a player shows it: what is there is whole."""
    whole = film(kind, coder, range(0, 2000, 40), rate=25, size=(128, 96))
    video = open_video(whole[: len(whole) * 2 // 3], 4)
    assert len(video.frames) == 4
    assert video.seconds is not None
    assert 0.5 < video.seconds[-1] < 1.2


def test_a_recording_that_begins_within_a_packet() -> None:
    packets = film("mpegts", "mpeg2video", range(0, 400, 40), rate=25, size=(128, 96))
    cut = packets[100:]
    assert is_video(cut)
    assert recognised(cut[:1400]) is not None
    assert open_video(cut, 2).size == (128, 96)


TURNED = {
    (1, 0, 0, 1): lambda frame: frame,
    (0, 1, -1, 0): lambda frame: np.rot90(frame, -1),
    (-1, 0, 0, -1): lambda frame: np.rot90(frame, 2),
    (0, -1, 1, 0): lambda frame: np.rot90(frame, 1),
    (-1, 0, 0, 1): lambda frame: frame[:, ::-1],
    (1, 0, 0, -1): lambda frame: frame[::-1],
    (0, 1, 1, 0): lambda frame: frame.transpose(1, 0, 2),
    (0, -1, -1, 0): lambda frame: frame[::-1, ::-1].transpose(1, 0, 2),
}


@pytest.mark.parametrize("matrix", TURNED, ids=str)
def test_frames_are_turned_and_mirrored_as_the_file_says(matrix: tuple[int, int, int, int]) -> None:
    corners = np.zeros((48, 64, 3), np.uint8)
    corners[:24, :32], corners[:24, 32:], corners[24:, :32] = 240, 160, 80
    content = bytearray(film("mp4", "mpeg4", range(0, 300, 100), pictures=[corners] * 3))
    place = content.index(b"tkhd") + 44
    a, b, c, d = (value << 16 for value in matrix)
    content[place : place + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    video = open_video(bytes(content), 2)
    shown, wanted = np.asarray(video.frames[0]).astype(int), TURNED[matrix](corners).astype(int)
    assert shown.shape == wanted.shape
    assert np.abs(shown - wanted).mean() < 5
    assert ("turned upright" in " ".join(video.notes)) == (matrix != (1, 0, 0, 1))


@pytest.mark.parametrize("kind", ["mp4", "matroska"])
@pytest.mark.parametrize(("shape", "size"), [(Fraction(4, 3), (128, 96)), (Fraction(8, 9), (96, 108))])
def test_pixels_that_are_not_square_are_stretched(kind: str, shape: Fraction, size: tuple[int, int]) -> None:
    video = open_video(film(kind, "libx264", size=(96, 96), shape=shape), 2)
    assert video.size == size
    assert f"stretched from 96 x 96 to {size[0]} x {size[1]} pixels" in " ".join(video.notes)


def test_a_video_for_bright_screens_says_so() -> None:
    options = {"x264-params": "colorprim=bt2020:transfer=arib-std-b67:colormatrix=bt2020nc"}
    assert "HDR, HLG" in " ".join(open_video(film("mp4", "libx264", options=options), 4).notes)


def test_transparent_parts_of_frames_are_laid_over_white() -> None:
    written = io.BytesIO()
    clear = [Image.new("RGBA", (32, 32), (255, 0, 0, 0)), Image.new("RGBA", (32, 32), (0, 0, 255, 255))]
    clear[0].paste((0, 255, 0, 255), (0, 0, 16, 16))
    clear[0].save(written, "GIF", save_all=True, append_images=clear[1:], duration=200, disposal=2)
    video = open_video(written.getvalue(), 2)
    assert video.frames[0].getpixel((24, 24)) == (255, 255, 255)
    assert "Transparent parts were laid over white." in video.notes


def test_a_sound_with_a_cover_is_no_video() -> None:
    written = io.BytesIO()
    with av.open(written, "w", format="mp4") as container:
        sound, cover = container.add_stream("aac", rate=8000), container.add_stream("mjpeg", rate=25)
        cover.width, cover.height, cover.pix_fmt = 64, 64, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        container.mux(cover.encode(av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")))
        container.mux(cover.encode())
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        silence.sample_rate = 8000
        container.mux(sound.encode(silence))
        container.mux(sound.encode())
    with pytest.raises(flowcut.InvalidPicture, match="holds a cover picture and no video"):
        open_video(written.getvalue(), 4)


def test_of_two_videos_in_a_file_it_is_said_which() -> None:
    written = io.BytesIO()
    with av.open(written, "w", format="matroska") as container:
        streams = [container.add_stream("mpeg4", rate=25) for _ in range(2)]
        for stream in streams:
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for _ in range(4):
            for stream in streams:
                frame = av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="rgb24")
                container.mux(stream.encode(frame))
        for stream in streams:
            container.mux(stream.encode())
    assert "The file holds 2 videos" in open_video(written.getvalue(), 4).notes[0]


def test_the_times_are_in_the_record_and_on_the_command_line(tmp_path: Path, capsys: Any) -> None:
    folder, path = tiny_video.checkpoint("VideoLlava", tmp_path / "model"), tmp_path / "film.mp4"
    path.write_bytes(film(times=VARIABLE))
    asked = ["ask", str(path), "What happens?", "--model", str(folder), "--frames", "5", "--tokens", "10"]
    assert main.main([*asked, "--max-new-tokens", "2", "--out", str(tmp_path / "out")]) == 0
    (sentence,) = open_video(path, 5).notes
    assert "5 at even distances in time were taken: at 0, " in sentence
    assert f"flowcut: {sentence}\n" in capsys.readouterr().err
    kept = flowcut.load_run(tmp_path / "out")
    assert sentence in kept.notes
    assert kept.record is not None
    assert sentence in kept.record.notes


def test_one_frame_as_it_is() -> None:
    with av.open(io.BytesIO(film())) as container:
        frame = next(container.decode(video=0))
    assert upright(frame, Fraction(1)).notes == ()
    assert upright(frame, Fraction(2)).size == (128, 48)
    assert upright(frame, Fraction(1, 2)).size == (64, 96)
