"""Pictures of every odd kind, and files that are none."""

from __future__ import annotations

import hashlib
import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import flowcut
from flowcut import open_picture
from flowcut.media import picture


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def gradient(mode: str = "RGB", size: tuple[int, int] = (40, 30)) -> Image.Image:
    ramp = np.linspace(0, 255, size[0] * size[1]).reshape(size[1], size[0]).astype(np.uint8)
    return Image.fromarray(ramp).convert(mode)


def bomb(width: int, height: int) -> bytes:
    """A PNG that says it is huge and holds almost nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b"")
    )


def refused(source: object, sentence: str) -> None:
    with pytest.raises(flowcut.InvalidPicture, match=sentence) as caught:
        open_picture(source)
    message = str(caught.value)
    assert message.endswith(".")
    assert "\n" not in message
    assert len(message) < 250


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_usual_formats_open_from_everywhere(tmp_path: Path, kind: str) -> None:
    content = encoded(gradient(), kind)
    path = tmp_path / f"a.{kind.lower()}"
    path.write_bytes(content)
    for source in (path, str(path), content, bytearray(content), io.BytesIO(content), path.open("rb")):
        picture = open_picture(source)
        assert picture.image.mode == "RGB"
        assert picture.size == (40, 30)


def test_the_hash_is_of_pixels_not_of_files() -> None:
    image = gradient()
    assert open_picture(encoded(image, "PNG")).hash == open_picture(encoded(image, "BMP")).hash
    assert open_picture(image).hash != open_picture(image.resize((30, 40))).hash


def test_opening_never_changes_what_it_was_given() -> None:
    image = gradient()
    picture = open_picture(image)
    assert picture.image is not image
    assert open_picture(picture) is picture


def test_empty_and_missing_files(tmp_path: Path) -> None:
    (tmp_path / "empty.png").touch()
    refused(tmp_path / "empty.png", r"empty\.png is empty \(0 bytes\)")
    refused(b"", "empty")
    refused(tmp_path / "missing.png", "no such file")
    refused(tmp_path, "it is a folder")
    refused("", "No picture")
    refused("a\0b.png", "No picture")


def test_a_text_called_png(tmp_path: Path) -> None:
    path = tmp_path / "cat.png"
    path.write_text("I am a cat.")
    refused(path, r"cat\.png is not a picture")


def test_other_kinds_of_files_and_objects() -> None:
    refused(b"%PDF-1.7 not a picture", "not a picture")
    refused(b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not a picture")
    refused(42, "is a int")
    refused(None, "NoneType")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_truncated_files(kind: str, share: float) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    content = encoded(noise, kind)
    refused(content[: int(len(content) * share)], "damaged|not a picture")


def test_a_flipped_byte_in_a_png() -> None:
    content = bytearray(encoded(gradient(size=(64, 64))))
    content[len(content) // 2] ^= 0xFF
    refused(bytes(content), "damaged")


@pytest.mark.parametrize("size", [(9000, 9000), (12_000, 12_000), (60_000, 60_000)])
def test_decompression_bombs_are_refused_before_they_unpack(size: tuple[int, int]) -> None:
    refused(bomb(*size), "at most 80 megapixels")


def test_the_size_is_checked_whatever_the_source(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(picture, "MAX_PIXELS", 1000)
    refused(gradient(), "40 x 30")
    refused(np.zeros((40, 30, 3), np.uint8), "30 x 40")


def test_one_pixel_is_a_picture() -> None:
    assert open_picture(Image.new("RGB", (1, 1), "red")).size == (1, 1)


@pytest.mark.parametrize("size", [(10_000, 3), (3, 10_000), (1, 51)])
def test_slivers_are_refused(size: tuple[int, int]) -> None:
    refused(Image.new("RGB", size), "at most 50 times the shorter")


def test_an_animation_shows_its_first_frame() -> None:
    frames = [Image.new("RGB", (20, 20), colour) for colour in ("red", "green", "blue")]
    content = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    picture = open_picture(content)
    assert picture.image.getpixel((5, 5)) == (255, 0, 0)
    assert "animation of 3 frames" in picture.notes[0]


def test_cmyk_becomes_rgb() -> None:
    picture = open_picture(encoded(gradient("CMYK"), "JPEG"))
    assert picture.image.mode == "RGB"
    assert "CMYK" in picture.notes[0]


def test_sixteen_bits_keep_their_range() -> None:
    deep = Image.fromarray(np.linspace(0, 65535, 1200).reshape(30, 40).astype(np.uint16))
    picture = open_picture(encoded(deep))
    found = np.asarray(picture.image)[..., 0]
    assert (found.min(), found.max()) == (0, 255)
    assert abs(int(np.median(found)) - 127) <= 1
    assert "16-bit" in picture.notes[0]


def test_float_pictures_are_stretched_over_their_own_range() -> None:
    picture = open_picture(encoded(Image.fromarray(np.linspace(-3, 9, 12).reshape(3, 4).astype(np.float32)), "TIFF"))
    assert np.asarray(picture.image)[0, 0, 0] == 0
    assert np.asarray(picture.image)[2, 3, 0] == 255


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_is_laid_over_white(mode: str) -> None:
    image = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    image.putpixel((0, 0), (255, 0, 0, 255) if mode != "LA" else (9, 9, 9, 255))
    picture = open_picture(encoded(image.convert(mode)))
    assert picture.image.getpixel((5, 5)) == (255, 255, 255)
    assert "white" in picture.notes[0]


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "YCbCr", "HSV", "LAB"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    image = gradient("RGB").convert(mode) if mode != "LAB" else Image.new("LAB", (40, 30))
    assert open_picture(image).image.mode == "RGB"


@pytest.mark.parametrize("orientation", range(2, 9))
def test_exif_orientation_is_applied(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = open_picture(encoded(gradient(), "JPEG", exif=exif.tobytes()))
    assert picture.size == ((30, 40) if orientation >= 5 else (40, 30))
    assert "EXIF" in picture.notes[0]


def test_arrays() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    np.testing.assert_array_equal(np.asarray(open_picture(noise).image), noise)
    np.testing.assert_array_equal(np.asarray(open_picture(noise / 255.0).image), noise)
    assert open_picture(noise[..., 0]).size == (40, 30)
    assert open_picture(noise[..., :1]).size == (40, 30)
    assert open_picture(noise[..., 0] > 9).size == (40, 30)
    assert open_picture(noise[..., 0].astype(np.uint16) * 257).image.getpixel((3, 2)) == (int(noise[2, 3, 0]),) * 3


@pytest.mark.parametrize(
    ("array", "sentence"),
    [
        (np.zeros((0, 4, 3), np.uint8), "shape"),
        (np.zeros(7, np.uint8), "shape"),
        (np.zeros((3, 30, 40), np.uint8), r"shape \(3, 30, 40\)"),
        (np.full((4, 4, 3), 2.0), "outside 0 to 1"),
        (np.full((4, 4, 3), np.nan), "outside 0 to 1"),
        (np.zeros((4, 4, 3), np.int64), "int64"),
        (np.array([["a"]]), "type"),
    ],
)
def test_arrays_that_are_no_pictures(array: np.ndarray, sentence: str) -> None:
    refused(array, sentence)


@pytest.mark.parametrize("exif", [b"Exif\0\0II", b"II*\0", b"x"])
def test_exif_that_cannot_be_read_leaves_the_picture_as_it_is(exif: bytes) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "PNG", exif=exif)
    (note,) = open_picture(buffer.getvalue()).notes
    assert "EXIF data cannot be read" in note


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_flipped_byte_in_a_header_is_opened_or_refused_in_one_sentence() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    Image.new("RGB", (40, 30), "red").save(buffer, "JPEG", exif=exif)
    content, refused = buffer.getvalue(), 0
    for at in range(20, 90):
        for value in range(0, 256, 5):
            try:
                open_picture(content[:at] + bytes([value]) + content[at + 1 :])
            except flowcut.InvalidPicture:
                refused += 1
    assert refused


def test_other_decoders_are_not_let_near_it() -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "PPM")
    with pytest.raises(flowcut.InvalidPicture, match="not a picture that can be read"):
        open_picture(buffer.getvalue())


def test_a_path_that_no_file_system_takes() -> None:
    with pytest.raises(flowcut.InvalidPicture, match="there is no such file"):
        open_picture("x" * 5000)


def test_a_picture_is_hashed_once_and_opened_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    picture = open_picture(np.zeros((20, 30, 3), np.uint8))
    taken: list[int] = []
    pixels = Image.Image.tobytes
    monkeypatch.setattr(Image.Image, "tobytes", lambda image: taken.append(1) or pixels(image))
    assert open_picture(picture) is picture
    assert picture.hash == open_picture(picture).hash == hashlib.sha256(b"30x20" + bytes(20 * 30 * 3)).hexdigest()
    assert len(taken) == 1
