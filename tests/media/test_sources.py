"""Where pictures come from: addresses, rows of data sets, tensors, arrays, files in every state; one sentence else."""

from __future__ import annotations

import base64
import io
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import flowcut
from flowcut import open_picture, open_video
from flowcut.media import fetching, source
from flowcut.media.video import is_video
from flowcut_lens.app.media.uploads import Upload
from flowcut_lens.app.media.videos import VideoFile
from flowcut_lens.cli import main
from tests import tiny
from tests.media.test_containers import film


def png(size: tuple[int, int] = (40, 20)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, "red").save(buffer, "PNG")
    return buffer.getvalue()


def refused(given: object, sentence: str) -> str:
    with pytest.raises(flowcut.InvalidPicture, match=sentence) as caught:
        open_picture(given)
    message = str(caught.value)
    assert message.endswith(".")
    assert message.count(". ") == 0
    assert "\n" not in message
    assert len(message) < 300
    return message


class Server(ThreadingHTTPServer):
    """Serves what it is told to, and notes what was asked of it."""

    daemon_threads = True

    def __init__(self, answers: dict[str, Any]) -> None:
        super().__init__(("127.0.0.1", 0), Answering)
        self.answers, self.asked = answers, []  # type: ignore[var-annotated]

    def url(self, path: str, host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.server_address[1]}{path}"


class Answering(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.server.asked.append(self.path)  # type: ignore[attr-defined]
        answer = self.server.answers.get(self.path.partition("?")[0])  # type: ignore[attr-defined]
        if callable(answer):
            answer(self)
        elif isinstance(answer, str):
            self.send_response(302)
            self.send_header("Location", answer)
            self.end_headers()
        elif answer is None:
            self.send_error(404)
        else:
            self.send_response(200)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

    def log_message(self, *args: Any) -> None:
        """Nothing on the console."""


@pytest.fixture
def server() -> Iterator[Server]:
    with Server({"/a.png": png(), "/film.mp4": film("mp4"), "/film": film("mp4"), "/words": b"words"}) as served:
        thread = threading.Thread(target=served.serve_forever, args=(0.05,))
        thread.start()
        yield served
        served.shutdown()
        thread.join()


def test_an_address_is_fetched_once(server: Server, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert open_picture(server.url("/a.png?token=1")).size == (40, 20)
    server.answers["/caf%C3%A9%20au%20lait.png"] = png()
    assert open_picture(server.url("/café au lait.png")).size == (40, 20)
    server.asked.pop()
    assert len(open_video(server.url("/film.mp4"), 4).frames) == 4
    assert is_video(server.url("/film.mp4?x=1"))
    assert not is_video(server.url("/a.png"))
    assert len(server.asked) == 2
    model = str(tiny.checkpoint(tmp_path / "model"))
    server.asked.clear()
    asked = ["ask", server.url("/a.png"), "What?", "--model", model, "--tokens", "9", "--max-new-tokens", "2"]
    assert main.main([*asked, "--out", str(tmp_path / "out"), "--json"]) == 0
    assert Image.open(tmp_path / "out" / "picture.png").size == (40, 20)
    assert json.loads(capsys.readouterr().out)["image_hash"] == open_picture(png()).hash
    flowcut.ask(flowcut.load(model), server.url("/a.png"), "What?", max_new_tokens=1)
    assert server.asked == ["/a.png"] * 2
    assert main.main([*asked[:1], server.url("/film"), *asked[2:]]) == 2  # a video by its content alone
    assert "takes no videos" in capsys.readouterr().err


def test_what_an_address_may_not_be(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "words is not a picture" in refused(server.url("/words"), "choose a PNG")
    secret = refused(server.url("/none.png?token=secret"), r"none\.png cannot be fetched .its server answered 404")
    assert "secret" not in secret
    for scheme in ("ftp", "s3", "hf", "gopher"):
        refused(f"{scheme}://example.org/a.png", f"lies at a {scheme} address, and only http and https are read")
    refused("file:///etc/passwd", "file address.*give the path alone")
    refused("http://127.0.0.1:1/a.png", "cannot be fetched")
    refused("http://no.such.host.invalid/a.png", "cannot be fetched")
    refused("http://[::1/a.png", "cannot be fetched")
    refused("http://exa mple.org/a.png", "cannot be fetched")
    refused("https:///a.png", "cannot be fetched")
    monkeypatch.setattr(fetching, "MAX_FETCHED", 50)
    refused(server.url("/a.png"), "the most that is fetched")


@pytest.mark.parametrize(
    "target", ["file:///etc/passwd", "ftp://example.org/x", "http://localhost:{port}/a.png", "http://10.0.0.1/a.png",
               "http://169.254.169.254/latest", "http://[::1]:{port}/a.png", "http://0.0.0.0:{port}/a.png",
               "http://2130706433:{port}/a.png", "/moved"],
)  # fmt: skip
def test_no_address_leads_into_this_machine_or_its_network(server: Server, target: str) -> None:
    server.answers["/moved"] = target.format(port=server.server_address[1])
    refused(server.url("/moved"), "cannot be fetched")
    assert set(server.asked) == {"/moved"}


def test_a_redirection_on_the_host_that_was_given_is_followed(server: Server) -> None:
    server.answers["/old"] = "/a.png"
    assert open_picture(server.url("/old")).size == (40, 20)


def test_an_address_that_answers_slowly_or_half(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    def drips(handler: Any) -> None:
        handler.send_response(200)
        handler.end_headers()
        for _ in range(30):
            handler.wfile.write(b"x")
            handler.wfile.flush()
            time.sleep(0.05)

    def half(handler: Any) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "1000")
        handler.end_headers()
        handler.wfile.write(b"x" * 10)

    def silent(handler: Any) -> None:
        time.sleep(0.6)

    server.answers |= {"/slow": drips, "/half": half, "/silent": silent}
    monkeypatch.setattr(fetching, "MAX_SECONDS", 0.2)
    monkeypatch.setattr(fetching, "ANSWER_SECONDS", 0.3)
    refused(server.url("/slow"), "takes more than 0.2 seconds to fetch")
    refused(server.url("/half"), "ended before all was sent")
    refused(server.url("/silent"), "silent|timed out|closed")


def test_data_urls() -> None:
    coded = base64.b64encode(png()).decode()
    for text in (coded, coded.replace("+", "-").replace("/", "_"), coded.rstrip("="), coded[:20] + "\n" + coded[20:]):
        assert open_picture(f"data:image/png;base64,{text}").size == (40, 20)
    assert open_picture("DATA:;BASE64," + coded).size == (40, 20)
    video = "data:video/mp4;base64," + base64.b64encode(film("mp4")).decode()
    assert is_video(video)
    assert len(open_video(video, 4).frames) == 4
    refused("data:image/png;base64," + "A" * 3000, "The data URL is not a picture")
    refused("data:image/png;base64,a?" + "A" * 30, "broken or cut short")
    refused("data:image/png", "no comma")
    refused("data:image/png,words", "not a picture")
    refused("data:image/png;base64,", "empty")


def test_rows_of_data_sets(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png())
    image = Image.open(path)
    for row in ({"bytes": png(), "path": "x/a.png"}, {"bytes": None, "path": str(path)}, {"path": path},
                {"image": {"bytes": png(), "path": None}, "question": "What?"}, {"image": image, "label": 3},
                {"image": str(path)}):  # fmt: skip
        assert open_picture(row).size == (40, 20)
        assert not is_video(row)
    clip = {"bytes": film("mp4"), "path": "clip.mp4"}
    assert is_video(clip)
    assert is_video({"bytes": film("mp4"), "path": None})
    assert len(open_video(clip, 4).frames) == 4
    assert "broken.png" in refused({"bytes": b"words", "path": "a/broken.png"}, "not a picture")
    refused({"bytes": None, "path": "https://example.org/a.png"}, "give the address itself")
    refused({"question": "What?", "label": 1}, "is a dict with the keys question, label")
    refused({}, "keys none")
    refused({"bytes": b""}, "is empty")


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_tensors(dtype: torch.dtype) -> None:
    numbers = torch.from_numpy(np.random.default_rng(0).integers(0, 2, (3, 20, 40), dtype=np.uint8) * 255)
    tensor = numbers if dtype == torch.uint8 else (numbers / 255).to(dtype).requires_grad_()
    wanted = numbers.permute(1, 2, 0).numpy()
    for given in (tensor, tensor.permute(1, 2, 0), tensor.detach()):
        np.testing.assert_array_equal(np.asarray(open_picture(given).image), wanted)
        assert not is_video(given)
    assert open_picture(tensor[:1]).size == open_picture(tensor[0]).size == (40, 20)
    clip = torch.stack([tensor.detach()] * 3)
    assert is_video(clip)
    assert (
        open_video(clip).hash == open_video(clip.permute(0, 2, 3, 1)).hash == open_video([tensor, tensor, tensor]).hash
    )
    np.testing.assert_array_equal(open_video(clip).array()[1], wanted)


def test_tensors_that_hold_no_picture() -> None:
    refused(torch.zeros(3, 20, 40, device="meta"), "tensor .torch.float32, on meta. cannot be read")
    refused(torch.zeros(3, 20, 40).to_sparse(), "cannot be read")
    refused(torch.randn(3, 20, 40) * 2, "outside 0 to 1, from -")
    refused(torch.zeros(3, 20, 40, dtype=torch.int64), "int64")
    refused(torch.zeros(20), "shape")
    refused(torch.zeros(7, 20, 40), "shape")
    refused(torch.zeros(2, 3, 20, 40), r"shape \(2, 3, 20, 40\)")
    with pytest.raises(flowcut.InvalidPicture, match=r"shape \(3, 20, 40\): a video is"):
        open_video(torch.zeros(3, 20, 40))
    with pytest.raises(flowcut.InvalidPicture, match="1 frame"):
        open_video(torch.zeros(1, 3, 20, 40))


def test_arrays_in_any_order_of_bytes_and_what_is_said_of_others() -> None:
    values = np.random.default_rng(0).random((20, 40, 3))
    wanted = (values * 255).round().astype(np.uint8)
    for kind in (">f8", "<f8", ">f4", "longdouble"):
        np.testing.assert_array_equal(np.asarray(open_picture(values.astype(kind)).image), wanted)
    swapped = (wanted[..., 0].astype(">u2") * 257).astype(">u2")
    np.testing.assert_array_equal(np.asarray(open_picture(swapped).image)[..., 0], wanted[..., 0])
    assert open_picture(wanted[::-1, ::-2]).size == (20, 20)
    assert open_picture(np.broadcast_to(np.uint8(7), (20, 40))).size == (40, 20)
    np.testing.assert_array_equal(np.asarray(open_picture(values.clip(0, 1) + 1e-6).image), wanted)
    chw = np.zeros((3, 20, 40), np.uint8)
    refused(chw, r"array.transpose\(1, 2, 0\)")
    refused(values * 255, "from 0.* to 254.*: scale it to 0 to 1, or give uint8")
    refused(np.array([[0, np.nan]]), "NaN")
    refused(wanted.astype(np.int32), r"int32: .*array.astype\('uint8'\)")
    refused(values.astype(np.complex64), "complex64")
    refused(np.array([[None]]), "object")
    refused(np.float32(3), r"shape \(\)")
    refused(np.zeros((2, 2, 2, 3), np.uint8), "shape")


def test_files_in_every_state(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png())
    buffer = io.BytesIO()
    Image.new("RGB", (40, 20)).save(buffer, "PNG")  # now at its end
    assert open_picture(buffer).size == open_picture(buffer).size == (40, 20)
    with path.open("rb") as file:
        file.read()
        assert open_picture(file).size == (40, 20)
    refused(file, r"a\.png cannot be read .*closed file.*open it again, with mode 'rb'")
    with path.open(encoding="utf-8") as text:
        refused(text, "open as text: open it with mode 'rb'")
    with path.open("ab") as written:
        refused(written, "cannot be read .*mode 'rb'")
    refused(io.StringIO("x"), "open as text")
    with Image.open(path) as lazy:
        pass
    refused(lazy, "PIL image whose file was closed before it was read")
    with Image.open(path) as read:
        read.load()
    assert open_picture(read).size == (40, 20)
    read.close()
    refused(read, "closed|damaged")
    empty = io.BytesIO()
    with pytest.raises(flowcut.InvalidPicture, match="is empty"):
        open_video(empty)


class Odd:
    """A file of some library, which fails in its own way."""

    def __init__(self, content: Any) -> None:
        self.content = content

    def read(self, size: int = -1) -> Any:
        if isinstance(self.content, Exception):
            raise self.content
        return self.content


def test_files_of_other_libraries() -> None:
    assert open_picture(Odd(png())).size == (40, 20)
    refused(Odd(None), "gives a NoneType when it is read")
    refused(Odd(RuntimeError("the service\nis away. Try later")), "the service is away; Try later")
    refused(Odd(EOFError()), "cannot be read .EOFError")
    with pytest.raises(flowcut.InvalidPicture, match="the service"):
        open_video(Odd(RuntimeError("the service")))


def test_a_long_or_strange_name_is_cut_short_in_a_sentence() -> None:
    for name in ("x" * 5000, "a\nb.png", "\udcff.png", base64.b64encode(png() * 40).decode()):
        refused(name, "No picture at")
    assert source.shown("a" * 500).count("a") < 130
    message = refused("a\nb.png", "no such file")
    assert "a�b.png" in message


def test_what_the_app_is_handed_is_never_fetched(server: Server) -> None:
    """An upload is bytes, whatever they say and whatever it is called."""
    with pytest.raises(flowcut.InvalidPicture, match="not a picture"):
        Upload(server.url("/a.png").encode()).open()
    assert len(VideoFile(server.url("/film.mp4"), film("mp4")).open(4).frames) == 4
    assert server.asked == []
