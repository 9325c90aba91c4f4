"""Video files from strangers: nothing but their own bytes is reached, every limit holds, refusals are sentences."""

from __future__ import annotations

import io
import os
import socketserver
import struct
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

import flowcut
from flowcut.media import containers
from flowcut.media.containers import CONTAINERS, recognised
from flowcut.media.video import is_video, open_video
from flowcut_lens.cli import main

ANSWER_SECONDS = 10
"""More than any refusal takes; less than the test's own time limit."""
CODERS = {
    "mp4": "libx264", "mov": "mpeg4", "3gp": "h263", "matroska": "mpeg4", "webm": "libvpx", "avi": "mpeg4",
    "vob": "mpeg2video", "mpegts": "mpeg2video", "asf": "msmpeg4", "flv": "flv", "gif": "gif",
}  # fmt: skip
"""By FFmpeg's name of what writes the container, a coder that it takes."""
SUFFIX = {"3gp": ".3gp", "matroska": ".mkv", "vob": ".mpg", "mpegts": ".ts", "asf": ".wmv"}


def film(kind: str, frames: int = 12, size: tuple[int, int] = (128, 96), streams: int = 1) -> bytes:
    """A video in a container of this kind, whose frames get brighter by 10 from each to the next."""
    written = io.BytesIO()
    with av.open(written, "w", format=kind) as container:
        made = [container.add_stream(CODERS[kind], rate=25) for _ in range(streams)]
        for stream in made:
            stream.width, stream.height, stream.pix_fmt = *size, "rgb8" if kind == "gif" else "yuv420p"
        for place in range(frames):
            grey = np.full((size[1], size[0], 3), 10 * place % 256, np.uint8)
            for stream in made:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(grey, format="rgb24")))
        for stream in made:
            container.mux(stream.encode())
    return written.getvalue()


def refusal(source: Any) -> str:
    """The sentence with which a source is refused."""
    told = outcome(source)
    assert told is not None, "was opened"
    return told


def outcome(source: Any) -> str | None:
    """The sentence with which a source is refused; None: it was opened. Neither takes long."""
    started, told = time.monotonic(), None
    try:
        open_video(source, 4)
    except flowcut.InvalidPicture as error:
        told = str(error)
    assert time.monotonic() - started < ANSWER_SECONDS
    if told is not None:
        assert "\n" not in told
        assert told.count(". ") == 0
    return told


def named(content: bytes, name: str) -> io.BytesIO:
    """An open file of this name, as an upload is."""
    file = io.BytesIO(content)
    file.name = name
    return file


@pytest.mark.parametrize("kind", CODERS)
def test_every_container_is_recognised_by_its_content(kind: str, tmp_path: Path) -> None:
    content = film(kind)
    video = open_video(named(content, "no suffix at all"), 4)
    assert [round(float(np.asarray(frame).mean()) / 10) for frame in video.frames] == [0, 3, 6, 9]
    assert is_video(content) == (kind != "gif")
    assert is_video(named(content, "no suffix at all")) == (kind != "gif")
    path = tmp_path / f"film{SUFFIX.get(kind, f'.{kind}')}"
    path.write_bytes(content)
    assert is_video(path) == (kind != "gif")
    assert open_video(path, 4).hash == video.hash


def test_packets_with_times_before_them_are_a_transport_stream_too() -> None:
    packets = film("mpegts")
    timed = b"".join(b"time" + packets[place : place + 188] for place in range(0, len(packets), 188))
    assert open_video(timed, 4).hash == open_video(packets, 4).hash


SECRET = "the words of a file that nobody may see"


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "requirements.txt"
    path.write_text(SECRET * 40)
    return path


class Requests(BaseHTTPRequestHandler):
    """An inner service; whatever is asked of it is noted."""

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        self.send_error(404)

    def log_message(self, *args: Any) -> None:
        """Nothing on the console."""


@pytest.fixture
def service() -> Iterator[Any]:
    with socketserver.TCPServer(("127.0.0.1", 0), Requests) as server:
        server.asked = []
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def lists_of(target: str) -> dict[str, bytes]:
    """Texts that FFmpeg takes for a video when it may guess: each names another file, or is read as pictures itself."""
    return {
        "concat": f"ffconcat version 1.0\nfile '{target}'\n".encode(),
        "hls": f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{target}\n#EXT-X-ENDLIST\n".encode(),
        "dash": f'<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"><Period><AdaptationSet>'
        f'<Representation id="1"><BaseURL>{target}</BaseURL></Representation></AdaptationSet></Period></MPD>'.encode(),
        "playlist": f"[playlist]\nFile1={target}\nNumberOfEntries=1\n".encode(),
        "sdp": b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n",
        "text": (SECRET * 20).encode(),
        "tty": b"\x1b[2J\x1b[31m" + SECRET.encode() * 30,
        "subtitles": b"1\n00:00:00,000 --> 00:00:09,000\nwords\n\n" * 9,
        "ass": b"[Script Info]\nScriptType: v4.00+\n[Events]\nDialogue: 0,0:00:00.00,0:00:09.00,,,0,0,0,,words\n",
        "xbin": b"XBIN\x1a\x10\x00\x10\x00\x10\x00" + bytes(400),
        "picture": _png(),
        "many pictures": _png() * 4,
        "raw H.264": film_raw(),
    }


def _png() -> bytes:
    written = io.BytesIO()
    Image.new("RGB", (32, 32), "red").save(written, "PNG")
    return written.getvalue()


def film_raw() -> bytes:
    """Coded pictures without a container."""
    written = io.BytesIO()
    with av.open(written, "w", format="h264") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="rgb24")))
        container.mux(stream.encode())
    return written.getvalue()


@pytest.mark.parametrize("kind", lists_of("x"))
def test_what_is_no_container_is_never_decoded(kind: str, secret: Path, service: Any, monkeypatch: Any) -> None:
    """As bytes, as a file of any name, as a path: a list of files shows none of them, and asks no service for one."""
    monkeypatch.chdir(secret.parent)
    inner = f"http://127.0.0.1:{service.server_address[1]}/inner.mp4"
    for target in (secret.name, str(secret), f"file:{secret}", inner):
        content = lists_of(target)[kind]
        held = secret.parent / "holiday.mp4"
        held.write_bytes(content)
        sources = [content, held, named(content, "holiday.mp4"), named(content, str(secret)), named(content, inner)]
        for source in sources:
            assert "is not a video that can be decoded" in refusal(source)
    assert service.asked == []


@pytest.mark.parametrize("name", ["/etc/passwd", "../../up.mp4", "http://127.0.0.1:{port}/x.mp4", "concat:a|b.mp4",
                                  "file:/etc/passwd", "\0.mp4", "%05d.mp4", "-.mp4", "x" * 5000, 7])  # fmt: skip
def test_the_name_of_an_upload_is_never_opened(name: Any, service: Any) -> None:
    told = name.format(port=service.server_address[1]) if isinstance(name, str) else name
    assert len(open_video(named(film("mp4"), told), 4).frames) == 4
    assert "decoded" in refusal(named(b"these are words, not a video", told))
    assert service.asked == []


def test_data_outside_a_movie_is_not_followed(tmp_path: Path, service: Any) -> None:
    """A QuickTime file whose data lie, as it says, in another file or behind an address."""
    whole = tmp_path / "whole.mov"
    whole.write_bytes(film("mov"))
    for target in (whole.name, str(whole), f"http://127.0.0.1:{service.server_address[1]}/whole.mov"):
        reference = tmp_path / "reference.mov"
        reference.write_bytes(_elsewhere(whole.read_bytes(), target.encode()))
        for source in (reference, reference.read_bytes(), named(reference.read_bytes(), str(reference))):
            refusal(source)
    assert service.asked == []


def _elsewhere(movie: bytes, target: bytes) -> bytes:
    """The movie with its data taken out, and an entry in its data references that says where they are now."""
    data = movie.index(b"mdat") - 4
    (length,) = struct.unpack(">I", movie[data : data + 4])
    head = bytearray(movie[:data] + movie[data + length :])
    place = head.index(b"dref") + 12
    entry = b"url " + struct.pack(">I", 0) + target + b"\0"
    old = struct.unpack(">I", head[place : place + 4])[0]
    added = len(entry) + 4 - old
    head[place : place + old] = struct.pack(">I", len(entry) + 4) + entry
    for box in (b"moov", b"trak", b"mdia", b"minf", b"dinf", b"dref"):
        at = head.index(box) - 4
        head[at : at + 4] = struct.pack(">I", struct.unpack(">I", head[at : at + 4])[0] + added)
    return bytes(head)


def test_devices_and_pipes_are_refused_at_once(tmp_path: Path, capsys: Any) -> None:
    pipe = tmp_path / "pipe.mp4"
    os.mkfifo(pipe)
    for path in (Path("/dev/zero"), pipe, tmp_path):
        assert f"No video at {path}: it is a" in refusal(path)
        with pytest.raises(flowcut.InvalidPicture, match=f"No picture at {path}: it is a"):
            flowcut.open_picture(path)
    assert main.main(["ask", str(pipe), "What happens?"]) == 2
    assert main.main(["ask", "/dev/zero", "What is it?"]) == 2
    assert capsys.readouterr().err.count("it is a device or a pipe") == 1  # the embedded model takes no videos at all


class Endless(io.RawIOBase):
    """A file that begins like a video and never ends."""

    def __init__(self, start: bytes, more: bytes) -> None:
        self.start, self.more, self.place = start, more, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        self.place = {0: offset, 1: self.place + offset, 2: 2**50 + offset}[whence]
        return self.place

    def tell(self) -> int:
        return self.place

    def read(self, size: int = -1) -> bytes:
        begun = self.start[self.place : self.place + size]
        self.place += size
        return begun + (self.more * (size // len(self.more) + 1))[: size - len(begun)]


@pytest.mark.parametrize("kind", ["mpegts", "vob", "mp4", "matroska", "avi", "flv", "asf"])
def test_a_file_without_end_is_given_up(kind: str, monkeypatch: Any) -> None:
    monkeypatch.setattr(containers, "MAX_DECODING_SECONDS", 1.0)
    content = film(kind, frames=200)
    told = [outcome(Endless(content[:700], more)) for more in (content, bytes(997), b"\xff")]
    assert any(told) or kind == "asf"  # whose head says how much is to come


def test_a_slow_file_is_given_up(monkeypatch: Any) -> None:
    """Also one that answers so slowly that it seems to hang: the sentence says how long was waited."""
    monkeypatch.setattr(containers, "MAX_DECODING_SECONDS", 0.3)
    content = film("mpegts", frames=200)
    monkeypatch.setattr(Endless, "read", _slowly(Endless.read))
    assert "takes more than 0.3 seconds to decode" in refusal(Endless(content, content))


def _slowly(read: Any) -> Any:
    def slow(self: Any, size: int = -1) -> Any:
        time.sleep(0.02)
        return read(self, size)

    return slow


def test_every_limit_is_said(monkeypatch: Any) -> None:
    assert "holds 40 streams: at most 32 are opened" in refusal(film("matroska", 2, streams=40))
    monkeypatch.setattr("flowcut.media.video.MAX_FRAMES", 11)
    assert "lasts more than 11 frames: at most 10 minutes and 11 frames" in refusal(film("mp4"))
    monkeypatch.setattr("flowcut.media.video.MAX_FRAMES", 36_000)
    monkeypatch.setattr("flowcut.media.video.MAX_SECONDS", 0.25)
    assert "lasts 0 minutes" in refusal(film("mp4"))
    monkeypatch.setattr("flowcut.media.video.MAX_SECONDS", 600)
    monkeypatch.setattr("flowcut.media.video.MAX_PIXELS", 128 * 96 - 1)
    assert "has frames of 128 x 96 pixels" in refusal(film("mp4"))
    monkeypatch.setattr("flowcut.media.video.MAX_PIXELS", 128 * 96)
    assert len(open_video(film("mp4"), 4).frames) == 4
    monkeypatch.setattr(containers, "MAX_DECODING_SECONDS", -1.0)
    assert "takes more than -1 seconds to decode" in refusal(film("mp4"))


def test_frames_that_grow_on_the_way_are_refused(monkeypatch: Any) -> None:
    """The header's size is checked before anything is decoded; what is decoded is held against it."""
    first, then = film("mpegts", 6, (128, 96)), film("mpegts", 6, (1024, 768))
    assert "changes from 128 x 96 to 1024 x 768 pixels" in refusal(first + then)
    monkeypatch.setattr("flowcut.media.video.MAX_PIXELS", 128 * 96)
    assert "is not a video that can be decoded" in refusal(first + then), "larger frames are not even made room for"


def test_pictures_in_a_coding_that_nobody_knows() -> None:
    content = film("matroska")
    assert content.count(b"V_MPEG4/ISO/ASP") == 1
    assert "coded in a way that is not known here" in refusal(content.replace(b"V_MPEG4/ISO/ASP", b"V_NOTHING/ISO/X"))


def test_the_cover_of_an_album_is_not_the_video() -> None:
    written = io.BytesIO()
    with av.open(written, "w", format="mp4") as container:
        stream, cover = container.add_stream("mpeg4", rate=25), container.add_stream("mjpeg", rate=25)
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
        cover.width, cover.height, cover.pix_fmt = 64, 64, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        for one, size, count in ((cover, (64, 64), 1), (stream, (96, 128), 6)):
            for _ in range(count):
                container.mux(one.encode(av.VideoFrame.from_ndarray(np.zeros((*size, 3), np.uint8), format="rgb24")))
            container.mux(one.encode())
    content = _cover_first(written.getvalue())
    with av.open(io.BytesIO(content)) as container:
        assert [one.codec_context.name for one in container.streams.video] == ["mjpeg", "mpeg4"]
    assert open_video(content, 4).size == (128, 96)


def _cover_first(movie: bytes) -> bytes:
    """The same movie with its metadata, the cover among them, before its tracks."""
    moov = movie.index(b"moov") - 4
    boxes, place = {}, moov + 8
    while place < len(movie):
        (length,) = struct.unpack(">I", movie[place : place + 4])
        boxes[movie[place + 4 : place + 8]] = movie[place : place + length]
        place += length
    return movie[: moov + 8] + b"".join(boxes[name] for name in (b"mvhd", b"udta", b"trak"))


@pytest.mark.parametrize("kind", CODERS)
def test_mutated_videos_are_opened_or_refused_in_one_sentence(kind: str, monkeypatch: Any) -> None:
    monkeypatch.setattr(containers, "MAX_DECODING_SECONDS", 5.0)
    whole, rng = film(kind, 5), np.random.default_rng(0)
    told = [outcome(mutated(whole, rng)) for _ in range(150)]
    assert None in told
    assert any(told)


def mutated(content: bytes, rng: np.random.Generator) -> bytes:
    """A few bytes changed, pieces doubled or taken out; mostly in the head, where containers say what they hold."""
    out = bytearray(content)
    for _ in range(int(rng.integers(1, 12))):
        place = int(rng.integers(12, min(len(out), 900 if rng.random() < 0.7 else len(out))))
        match int(rng.integers(4)):
            case 0:
                out[place] = int(rng.integers(256))
            case 1:
                out[place : place + 4] = rng.choice(
                    [b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\1"]
                )
            case 2:
                del out[place : place + int(rng.integers(1, 40))]
            case _:
                out[place:place] = out[place : place + int(rng.integers(1, 40))]
    return bytes(out)


def test_nothing_is_recognised_in_nothing() -> None:
    assert recognised(b"") is None
    assert all(recognised(bytes([byte]) * 600) is None for byte in range(256) if byte != 0x47)
    assert {container.demuxer for container in CONTAINERS} == {
        "mov", "matroska", "avi", "mpeg", "mpegts", "asf", "flv", "gif",
    }  # fmt: skip


@pytest.mark.parametrize("file", [io.StringIO("words"), io.TextIOWrapper(io.BytesIO(b"\x89PNG"), encoding="utf-8")])
def test_files_that_are_open_as_text(file: Any) -> None:
    assert "open as text: open it with mode 'rb'" in refusal(file)
    with pytest.raises(flowcut.InvalidPicture, match="open as text: open it with mode 'rb'"):
        flowcut.open_picture(file)


def test_an_open_file_is_read_from_its_start_each_time() -> None:
    file = io.BytesIO(film("mp4"))
    file.seek(0, os.SEEK_END)
    assert open_video(file, 4).hash == open_video(file, 4).hash
    picture = io.BytesIO(_png())
    picture.seek(0, os.SEEK_END)
    assert flowcut.open_picture(picture).hash == flowcut.open_picture(picture).hash


def test_a_picture_file_has_a_largest_size(monkeypatch: Any) -> None:
    monkeypatch.setattr("flowcut.media.source.MAX_BYTES", 50)
    with pytest.raises(flowcut.InvalidPicture, match=r"has more than .* GiB: give a smaller file"):
        flowcut.open_picture(named(_png(), "large.png"))
