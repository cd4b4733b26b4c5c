"""Opening images: every form comes out as the same RGB image, everything broken as one line."""

import base64
import struct
import zlib
from io import BytesIO
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from observe_r1.data import images, open_image
from observe_r1.errors import UserError

RED, BLUE, WHITE = (255, 0, 0), (0, 0, 255), (255, 255, 255)


def encoded(image: Image.Image, format: str = "PNG", **options) -> bytes:
    buffer = BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def red_and_blue() -> Image.Image:
    """Red on the left, blue on the right; 4 wide, 2 high."""
    image = Image.new("RGB", (4, 2), RED)
    image.paste(BLUE, (2, 0, 4, 2))
    return image


def png_of_size(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def refusal(source: str | bytes) -> str:
    with pytest.raises(UserError) as caught:
        open_image(source, "train.jsonl row 7")
    message = str(caught.value)
    assert message.startswith("train.jsonl row 7: image ")
    assert "\n" not in message
    return message


@pytest.mark.parametrize("format", ["PNG", "BMP", "GIF", "TIFF", "WEBP", "PPM", "JPEG2000"])
def test_formats(format: str) -> None:
    options = {"lossless": True} if format == "WEBP" else {}
    image = open_image(encoded(red_and_blue(), format, **options), "row")
    assert image.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(image), np.asarray(red_and_blue()))


def test_the_same_image_from_path_uri_and_bytes(tmp_path: Path) -> None:
    data = encoded(red_and_blue())
    path = tmp_path / "ein bild #1.png"
    path.write_bytes(data)
    for source in (
        data,
        str(path),
        "data:image/png;base64," + base64.b64encode(data).decode(),
        "data:image/png;base64," + base64.encodebytes(data).decode(),
        "data:image/png;base64," + quote(base64.b64encode(data).decode()),
        "data:image/png," + quote(data),
    ):
        np.testing.assert_array_equal(np.asarray(open_image(source, "row")), np.asarray(red_and_blue()))


def test_exif_orientation_is_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by 90° clockwise: what is stored left stands on top
    image = open_image(encoded(red_and_blue(), exif=exif), "row")
    assert image.size == (2, 4)
    assert image.getpixel((0, 0)) == RED
    assert image.getpixel((0, 3)) == BLUE


def test_palette_with_and_without_transparency() -> None:
    plain = red_and_blue().quantize(2)
    assert open_image(encoded(plain), "row").getpixel((0, 0)) == RED
    clear = open_image(encoded(plain, transparency=plain.getpixel((3, 0))), "row")
    assert [clear.getpixel((0, 0)), clear.getpixel((3, 0))] == [RED, WHITE]


@pytest.mark.parametrize(
    ("mode", "colour", "shown"),
    [
        ("RGBA", (255, 0, 0, 255), RED),
        ("RGBA", (0, 0, 0, 0), WHITE),
        ("RGBA", (255, 0, 0, 128), (255, 127, 127)),
        ("LA", (0, 0), WHITE),
        ("LA", (100, 255), (100, 100, 100)),
        ("L", 100, (100, 100, 100)),
        ("1", 1, WHITE),
    ],
)
def test_transparency_and_grey(mode: str, colour: int | tuple[int, ...], shown: tuple[int, ...]) -> None:
    assert open_image(encoded(Image.new(mode, (2, 2), colour)), "row").getpixel((1, 1)) == shown


def test_transparent_colour_of_an_rgb_png() -> None:
    image = open_image(encoded(red_and_blue(), transparency=BLUE), "row")
    assert [image.getpixel((0, 0)), image.getpixel((3, 0))] == [RED, WHITE]


@pytest.mark.parametrize("format", ["TIFF", "JPEG"])
def test_cmyk(format: str) -> None:
    image = open_image(encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), format), "row")
    assert np.abs(np.subtract(image.getpixel((4, 4)), RED)).max() <= 4


@pytest.mark.parametrize("format", ["PNG", "TIFF", "PPM"])
def test_sixteen_bit_greys_are_scaled_not_clipped(format: str) -> None:
    ramp = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    image = open_image(encoded(Image.fromarray(ramp), format), "row")
    np.testing.assert_array_equal(np.asarray(image)[..., 1], ramp // 256)


@pytest.mark.parametrize("pixels", [np.full((4, 4), 0.5, np.float32), np.full((4, 4), 70000, np.int32)])
def test_pixels_without_a_known_range(pixels: np.ndarray) -> None:
    assert "save it with 8 bits" in refusal(encoded(Image.fromarray(pixels), "TIFF"))


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG", "TIFF"])
def test_first_frame_of_an_animation(format: str) -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in (RED, BLUE)]
    options = {"lossless": True} if format == "WEBP" else {}
    data = encoded(frames[0], format, save_all=True, append_images=frames[1:], **options)
    assert Image.open(BytesIO(data)).n_frames == 2
    assert open_image(data, "row").getpixel((0, 0)) == RED


def test_missing_and_unreadable_files(tmp_path: Path) -> None:
    assert refusal(str(tmp_path / "no.png")).endswith("no such file")
    assert refusal(str(tmp_path)).endswith("is not a file")
    assert "cannot be read" in refusal(str(tmp_path / ("a" * 300)))
    assert refusal("a\0.png").endswith("no such file")


def test_what_is_no_image(tmp_path: Path) -> None:
    empty = tmp_path / "empty.png"
    empty.touch()
    assert refusal(str(empty)).endswith("empty.png' is empty (0 bytes)")
    assert "HTML page" in refusal(b"\n<!DOCTYPE html><html><body>404</body></html>")
    assert "git lfs pull" in refusal(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    assert "known format" in refusal(b"just text")
    assert "known format" in refusal(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    assert "is broken: " in refusal(encoded(Image.effect_noise((64, 64), 50))[:2000])


def test_uris_that_hold_no_image() -> None:
    assert "not valid base64" in refusal("data:image/png;base64,AAA")
    assert "no comma" in refusal("data:image/png;base64")
    assert "empty" in refusal("data:image/png;base64,")


def test_a_long_uri_is_not_repeated_in_the_error() -> None:
    assert len(refusal("data:image/png;base64," + "A" * 10_000)) < 300


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [9_500, 100_000], ids=["where Pillow only warns", "where Pillow raises"])
def test_decompression_bombs(side: int) -> None:
    assert "more than 89,478,485 pixels" in refusal(png_of_size(side, side))


def test_one_pixel_over_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded(red_and_blue())
    monkeypatch.setattr(images, "MAX_PIXELS", 8)
    assert open_image(data, "row").size == (4, 2)
    monkeypatch.setattr(images, "MAX_PIXELS", 7)
    assert "more than 7 pixels" in refusal(data)


SEEDS = [
    encoded(Image.effect_noise((24, 24), 40).convert(mode), format)
    for mode, format in [
        *[("RGB", "PNG"), ("P", "PNG"), ("RGB", "JPEG"), ("CMYK", "JPEG"), ("P", "GIF"), ("RGB", "BMP")],
        *[("RGB", "TIFF"), ("RGB", "WEBP"), ("RGB", "PPM"), ("RGB", "JPEG2000"), ("RGB", "MPO")],
    ]
]


@settings(max_examples=400)
@given(st.data())
@pytest.mark.filterwarnings("ignore")
def test_damaged_files_open_or_are_refused(data: st.DataObject) -> None:
    damaged = bytearray(data.draw(st.sampled_from(SEEDS)))
    for _ in range(data.draw(st.integers(1, 6))):
        # Headers decide which code runs: half of the damage goes there.
        last = len(damaged) - 1 if data.draw(st.booleans()) else min(len(damaged) - 1, 100)
        damaged[data.draw(st.integers(0, last))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(1, len(damaged)) | st.just(len(damaged)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(images, "MAX_PIXELS", 100_000)  # a damaged header may ask for gigabytes
        try:
            assert open_image(bytes(damaged[:cut]), "row").mode == "RGB"
        except UserError as error:
            assert str(error).startswith("row: image (")
            assert "\n" not in str(error)
