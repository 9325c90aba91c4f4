"""What a picture's colours become, which of a file's pictures is used, and that each change is said and true."""

from __future__ import annotations

import io
import re
import struct
import zlib
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
from PIL import Image, PngImagePlugin, TiffImagePlugin

import flowcut
from flowcut import open_picture
from flowcut.media.video import is_video

RED, BLUE = (255, 0, 0), (0, 0, 255)


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def plain(colour: Any = "red", size: tuple[int, int] = (40, 20), mode: str = "RGB") -> Image.Image:
    return Image.new(mode, size, colour)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_16(values: np.ndarray) -> bytes:
    """A PNG of 16 bits a channel, which Pillow cannot write: [height, width, 3 or 4]."""
    height, width, channels = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    head = struct.pack(">IIBBBBB", width, height, 16, {3: 2, 4: 6}[channels], 0, 0, 0)
    start = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head)
    return start + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "P", "RGBa", "La"])
def test_nothing_is_said_of_transparency_that_is_not_there(mode: str) -> None:
    image = plain((255, 255, 255, 255), mode="RGBA")
    image = image.convert("LA").convert("La") if mode == "La" else image.convert(mode)
    if mode == "P":
        image.info["transparency"] = bytes([255] * 256)
    picture = open_picture(image)
    assert picture.notes == ()
    assert picture.image.getpixel((3, 3)) == (255, 255, 255)


def bmp_with_alpha(alpha: int) -> bytes:
    """A 32-bit BMP whose header has a mask for alpha, as screenshots come from Windows."""
    content = bytearray(encoded(Image.new("RGBA", (8, 8), (255, 0, 0, 9)), "BMP"))
    (start,) = struct.unpack_from("<I", content, 10)
    pixels = np.zeros((8, 8, 4), np.uint8)
    pixels[..., 2], pixels[..., 3] = 255, alpha  # blue, green, red, alpha
    header = struct.pack("<IiiHHIIiiII", 108, 8, 8, 1, 32, 3, 256, 0, 0, 0, 0)
    masks = struct.pack("<4I", 0xFF0000, 0xFF00, 0xFF, 0xFF000000) + b"BGRs" + bytes(48)
    assert start >= 54
    return b"BM" + struct.pack("<IHHI", 14 + 108 + 256, 0, 0, 122) + header + masks + pixels.tobytes()


def test_a_bmp_whose_alpha_is_empty_is_no_blank() -> None:
    picture = open_picture(bmp_with_alpha(0))
    assert picture.image.getpixel((3, 3)) == RED
    (note,) = picture.notes
    assert "alpha channel is empty" in note
    half = open_picture(bmp_with_alpha(128))
    assert half.image.getpixel((3, 3)) == (255, 127, 127)
    assert half.notes == ("Transparent parts were laid over white.",)


def test_a_picture_of_which_nothing_is_seen_says_so() -> None:
    (note,) = open_picture(encoded(plain((255, 0, 0, 0), mode="RGBA"))).notes
    assert "All of the picture is transparent" in note
    array = np.zeros((8, 8, 4), np.uint8)
    array[..., 0] = 255
    from_array = open_picture(array)
    assert from_array.image.getpixel((3, 3)) == RED
    assert "alpha channel is empty" in from_array.notes[0]


@pytest.mark.parametrize(("bits", "kind"), [(10, "PNG"), (12, "PNG"), (12, "TIFF"), (14, "PNG")])
def test_few_bits_in_16_are_stretched(bits: int, kind: str) -> None:
    most = 2**bits - 1
    values = np.linspace(0, most, 1200).reshape(30, 40).round().astype(np.uint16)
    for source in (encoded(Image.fromarray(values), kind), values, values.astype(">u2")):
        picture = open_picture(source)
        found = np.asarray(picture.image)[..., 0]
        np.testing.assert_array_equal(found, (values * (255.0 / most)).round().astype(np.uint8))
        (note,) = picture.notes
        assert f"reach {most} of 65535: they were stretched" in note


def test_all_16_bits_are_scaled_and_it_is_said() -> None:
    values = np.linspace(0, 65535, 1200).reshape(30, 40).astype(np.uint16)
    for source in (encoded(Image.fromarray(values)), values):
        assert "were scaled to 8 bits" in open_picture(source).notes[0]
    black = open_picture(np.zeros((8, 8), np.uint16))
    assert np.asarray(black.image).max() == 0


def test_colours_of_16_bits_are_cut_and_it_is_said() -> None:
    values = np.random.default_rng(0).integers(0, 65536, (20, 30, 3))
    picture = open_picture(png_16(values))
    np.testing.assert_array_equal(np.asarray(picture.image), values >> 8)
    (note,) = picture.notes
    assert "16 bits" in note
    assert open_picture(encoded(plain())).notes == ()
    dark = open_picture(png_16(values >> 4))  # 12 bits in 16
    np.testing.assert_array_equal(np.asarray(dark.image), ((values >> 12) * 17).astype(np.uint8))
    assert "reach 15 of 255 in their upper 8, which are read: they were stretched, in 15 steps" in dark.notes[0]


def test_the_grey_that_stands_for_nothing_in_16_bits() -> None:
    values = np.full((8, 8), 40_000, np.uint16)
    values[:4] = 0
    picture = open_picture(encoded(Image.fromarray(values), transparency=0))
    found = np.asarray(picture.image)[..., 0]
    assert (found[0, 0], found[7, 7]) == (255, round(40_000 / 257))
    assert picture.notes[1] == "Transparent parts were laid over white."


def test_greys_of_floats() -> None:
    values = np.linspace(1000, 1200, 12).reshape(3, 4).astype(np.float32)
    holes = values.copy()
    holes[0, 1] = np.nan
    picture = open_picture(encoded(Image.fromarray(holes), "TIFF"))
    found = np.asarray(picture.image)[..., 0]
    assert (found[0, 0], found[0, 1], found[2, 3]) == (0, 0, 255)
    assert found[1, 2] == round(6 / 11 * 255)
    (note,) = picture.notes
    assert "1000 is black, 1200 is white, and what is no number is black" in note
    assert "values are 0.5" in open_picture(Image.fromarray(np.full((4, 4), 0.5, np.float32))).notes[0]
    assert "no numbers" in open_picture(Image.fromarray(np.full((4, 4), np.nan, np.float32))).notes[0]
    deep = open_picture(Image.fromarray(np.array([[-5, 100_000]], np.int32)))
    assert [deep.image.getpixel((x, 0))[0] for x in (0, 1)] == [0, 255]


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr", "HSV", "LAB"])
def test_other_colours_are_named(mode: str) -> None:
    image = plain().convert(mode) if mode != "LAB" else Image.new("LAB", (40, 20))
    assert open_picture(image).notes == (f"The picture's {mode} colours were converted to RGB.",)


def test_one_bit_and_few_colours_need_no_word() -> None:
    for mode in ("1", "L", "P"):
        assert open_picture(encoded(plain("white", mode="L").convert(mode))).notes == ()


def test_a_second_picture_in_a_telephones_jpeg_is_no_animation() -> None:
    content = encoded(plain(), "MPO", save_all=True, append_images=[plain("blue", (20, 10))])
    picture = open_picture(content)
    assert picture.size == (40, 20)
    assert picture.notes == ("The file holds 2 pictures, as telephones write them: the first one was used.",)


def test_pages_of_a_scan_are_no_animation() -> None:
    content = encoded(plain(), "TIFF", save_all=True, append_images=[plain("blue"), plain("green")])
    picture = open_picture(content)
    assert picture.image.getpixel((3, 3)) == RED
    assert picture.notes == ("The file has 3 pages: the first one was used.",)


def test_of_a_pil_image_the_page_that_it_stands_at_is_used() -> None:
    image = Image.open(io.BytesIO(encoded(plain(), "TIFF", save_all=True, append_images=[plain("blue")])))
    image.seek(1)
    picture = open_picture(image)
    assert picture.image.getpixel((3, 3)) == BLUE
    assert picture.notes == ("The file has 2 pages: number 2 was used.",)
    assert image.tell() == 1


def test_pages_that_cannot_be_read_do_not_take_the_first_away() -> None:
    content = bytearray(encoded(plain(), "TIFF", save_all=True, append_images=[plain("blue")]))
    with Image.open(io.BytesIO(content)) as image:
        second = image._TiffImageFile__next  # type: ignore[attr-defined]  # where the second page's directory lies
    content[second : second + 200] = b"\xff" * len(content[second : second + 200])
    picture = open_picture(bytes(content))
    assert picture.image.getpixel((3, 3)) == RED
    assert len(picture.notes) == 1


def test_the_small_copy_that_a_raw_file_begins_with_is_called_so() -> None:
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[254] = 1
    (note,) = open_picture(encoded(plain(), "TIFF", tiffinfo=tags)).notes
    assert "smaller copy of 40 x 20 pixels" in note


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "AVIF"])
def test_animations(kind: str) -> None:
    content = encoded(plain(), kind, save_all=True, append_images=[plain("blue"), plain("green")])
    (note,) = open_picture(content).notes
    assert note == "The picture is an animation of 3 frames: the first one was used."


@pytest.mark.parametrize("where", ["zTXt", "tEXt", "iTXt", "iCCP", "behind"])
def test_large_metadata_is_no_damage(where: str) -> None:
    long, text = "workflow " * 300_000, PngImagePlugin.PngInfo()
    if where == "iCCP":
        content = encoded(plain(), icc_profile=np.random.default_rng(0).bytes(2_000_000))
    elif where == "behind":
        content = encoded(plain())
        content = content[:-12] + chunk(b"zTXt", b"workflow\0\0" + zlib.compress(long.encode())) + content[-12:]
    else:
        (text.add_itxt if where == "iTXt" else text.add_text)("workflow", long, zip=where != "tEXt")
        content = encoded(plain(), pnginfo=text)
    picture = open_picture(content)
    assert (picture.size, picture.notes) == ((40, 20), ())


def test_what_says_how_a_png_is_held_is_kept() -> None:
    xmp = '<x:xmpmeta xmlns:tiff="http://ns.adobe.com/tiff/1.0/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    for zip_ in (False, True):
        text = PngImagePlugin.PngInfo()
        text.add_itxt("XML:com.adobe.xmp", xmp, zip=zip_)
        text.add_text("other", "words " * 400_000, zip=True)
        assert open_picture(encoded(plain(), pnginfo=text)).size == (20, 40)
    exif = Image.Exif()
    exif[0x0112] = 8
    text = PngImagePlugin.PngInfo()
    text.add_text("other", "words " * 400_000, zip=True)
    assert open_picture(encoded(plain(), pnginfo=text, exif=exif)).size == (20, 40)


def test_a_text_that_unpacks_without_end_is_left_out() -> None:
    text = PngImagePlugin.PngInfo()
    text.add_itxt("XML:com.adobe.xmp", "x" * 30_000_000, zip=True)
    assert open_picture(encoded(plain(), pnginfo=text)).size == (40, 20)


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "TIFF", "AVIF"])
def test_large_profiles_of_other_formats(kind: str) -> None:
    profile = np.random.default_rng(0).bytes(2_000_000)
    assert open_picture(encoded(plain(), kind, icc_profile=profile)).size == (40, 20)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_orientation_in_every_format(kind: str, orientation: int) -> None:
    image = plain()
    image.paste(BLUE, (0, 0, 20, 20))  # the left half
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = open_picture(encoded(image, kind, exif=exif))
    assert picture.size == ((40, 20) if orientation == 3 else (20, 40))
    place = {3: (35, 10), 6: (10, 5), 8: (10, 35)}[orientation]
    assert np.argmax(picture.image.getpixel(place)) == 2
    assert picture.notes == ("The picture was turned upright as its EXIF orientation says.",)


@pytest.mark.parametrize("orientation", [0, 1, 9, 700])
def test_orientations_that_mean_nothing(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert open_picture(encoded(plain(), "JPEG", exif=exif)).notes == ()


def test_a_picture_in_a_box_file_is_no_video() -> None:
    avif = encoded(plain(), "AVIF")
    assert not is_video(avif)
    assert open_picture(avif).size == (40, 20)
    assert not is_video(b"\0\0\0\x18ftypheic" + bytes(40))


def test_heic_is_read_or_the_way_to_it_is_said() -> None:
    content = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(400)
    with pytest.raises(flowcut.InvalidPicture) as told:
        open_picture(content)
    refusal = r"damaged or cut short|not a picture that can be read"
    assert re.search(refusal if find_spec("pillow_heif") else r"pip install 'flowcut-lens\[heic\]'", str(told.value))


def test_an_intact_file_of_a_kind_that_is_not_read_is_not_called_damaged() -> None:
    content = bytearray(bmp_with_alpha(9))
    content[30] = 5  # a compression that nobody knows
    with pytest.raises(flowcut.InvalidPicture, match=r"coded in a way that is not read here .*: save it as PNG"):
        open_picture(bytes(content))
    tiff = encoded(plain(), "TIFF")
    strange = tiff.replace(struct.pack("<HHII", 262, 3, 1, 2), struct.pack("<HHII", 262, 3, 1, 4_000))
    assert strange != tiff
    with pytest.raises(flowcut.InvalidPicture, match=r"coded in a way that is not read here .its kind of TIFF"):
        open_picture(strange)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "MPO", "WEBP", "GIF", "BMP", "TIFF", "AVIF"])
def test_mutated_pictures_are_opened_or_refused_in_one_sentence(kind: str, recwarn: pytest.WarningsRecorder) -> None:
    rng, exif = np.random.default_rng(0), Image.Exif()
    exif[0x0112] = 6
    noise = [Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)) for _ in range(2)]
    several = {"save_all": True, "append_images": noise[1:]} if kind not in ("JPEG", "BMP", "AVIF") else {}
    whole = encoded(noise[0], kind, **({"exif": exif} if kind not in ("GIF", "BMP") else {}), **several)
    told: list[str] = []
    for _ in range(150):
        content = bytearray(whole)
        for _ in range(int(rng.integers(1, 6))):
            place = int(rng.integers(4, len(content) if rng.random() < 0.3 else min(len(content), 300)))
            content[place : place + int(rng.integers(1, 4))] = rng.bytes(int(rng.integers(0, 5)))
        try:
            open_picture(bytes(content))
        except flowcut.InvalidPicture as error:
            told.append(str(error))
    assert told
    assert not [one for one in told if ". " in one or "\n" in one]
    assert not recwarn.list
