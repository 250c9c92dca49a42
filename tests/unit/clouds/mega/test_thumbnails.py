from __future__ import annotations

import io
import struct
import sys
import zlib
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw

from serpentfs.clouds.mega.thumbnails import MOST_PIXELS, make_preview, make_thumbnail

BOTH = pytest.mark.parametrize("make", [make_thumbnail, make_preview])
RED, BLUE = (220, 30, 30), (30, 30, 220)


def picture(size: tuple[int, int], kind: str = "JPEG", mode: str = "RGB", **options: Any) -> bytes:
    """The left half is red, the right one blue."""
    image = Image.new("RGB", size, BLUE)
    ImageDraw.Draw(image).rectangle((0, 0, max(size[0] // 2 - 1, 0), size[1]), fill=RED)
    output = io.BytesIO()
    image.convert(mode).save(output, kind, **options)
    return output.getvalue()


def opened(data: bytes | None) -> Image.Image:
    assert data is not None
    image = Image.open(io.BytesIO(data))
    image.load()
    assert image.format == "JPEG"
    assert image.mode == "RGB"
    return image


def looks(image: Image.Image, x: float, y: float) -> str:
    pixel = image.getpixel((int(x * image.width), int(y * image.height)))
    assert isinstance(pixel, tuple)
    return "white" if min(pixel) > 230 else "red" if pixel[0] > pixel[2] else "blue"


@pytest.mark.parametrize(("kind", "mode"), [
    ("JPEG", "RGB"), ("JPEG", "L"), ("JPEG", "CMYK"), ("PNG", "RGB"), ("PNG", "RGBA"), ("PNG", "P"), ("PNG", "1"),
    ("PNG", "I;16"), ("PNG", "LA"), ("GIF", "P"), ("WEBP", "RGB"), ("BMP", "RGB"), ("TIFF", "RGB"), ("TIFF", "F"),
])
def test_any_kind_of_image(kind: str, mode: str) -> None:
    data = picture((600, 300), kind, "L" if mode == "I;16" else mode)
    if mode == "I;16":
        output = io.BytesIO()
        Image.new("I;16", (600, 300), 7000).save(output, kind)
        data = output.getvalue()
    assert opened(make_thumbnail(data)).size == (200, 200)
    assert opened(make_preview(data)).size == (600, 300)


@pytest.mark.parametrize(("size", "preview"), [
    ((4000, 3000), (1000, 750)), ((3000, 4000), (750, 1000)), ((1000, 1000), (1000, 1000)), ((1001, 10), (1000, 10)),
    ((50, 40), (50, 40)), ((1, 1), (1, 1)), ((5000, 1), (1000, 1)),
])
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_sizes(size: tuple[int, int], preview: tuple[int, int], kind: str) -> None:
    data = picture(size, kind)
    assert opened(make_thumbnail(data)).size == (200, 200)
    assert opened(make_preview(data)).size == preview


def test_the_thumbnail_is_cut_from_the_middle_and_the_preview_is_whole() -> None:
    image = Image.new("RGB", (900, 300), "white")
    ImageDraw.Draw(image).rectangle((300, 0, 599, 299), fill=RED)
    output = io.BytesIO()
    image.save(output, "PNG")
    thumbnail, preview = opened(make_thumbnail(output.getvalue())), opened(make_preview(output.getvalue()))
    assert [looks(thumbnail, x, 0.5) for x in (0.05, 0.5, 0.95)] == ["red", "red", "red"]
    assert [looks(preview, x, 0.5) for x in (0.05, 0.5, 0.95)] == ["white", "red", "white"]


@BOTH
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize(("orientation", "places"), [
    # Where the red half, stored at the left, is to be seen: left, top, right, bottom of the picture.
    (1, "red - blue -"), (2, "blue - red -"), (3, "blue - red -"), (4, "red - blue -"),
    (5, "- red - blue"), (6, "- red - blue"), (7, "- blue - red"), (8, "- blue - red"),
])
def test_pictures_stand_upright(make: Any, kind: str, orientation: int, places: str) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    image = opened(make(picture((600, 300), kind, exif=exif)))
    points = [(0.1, 0.5), (0.5, 0.1), (0.9, 0.5), (0.5, 0.9)]
    for (x, y), expected in zip(points, places.split(), strict=True):
        if expected != "-":
            assert looks(image, x, y) == expected


@BOTH
def test_what_one_can_see_through_is_on_white(make: Any) -> None:
    output = io.BytesIO()
    Image.new("RGBA", (300, 300), (255, 0, 0, 0)).save(output, "PNG")
    assert looks(opened(make(output.getvalue())), 0.5, 0.5) == "white"


@BOTH
def test_nothing_of_the_metadata_goes_along(make: Any) -> None:
    exif = Image.Exif()
    exif[270] = "where I live"
    data = picture((600, 300), exif=exif, comment=b"secret note", icc_profile=b"profile")
    assert b"where I live" in data
    small = make(data)
    assert b"where I live" not in small
    assert b"secret note" not in small
    assert not opened(small).getexif()


@BOTH
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF"])
@pytest.mark.filterwarnings("ignore:Corrupt EXIF data:UserWarning")
def test_a_cut_image_is_none(make: Any, kind: str) -> None:
    data = picture((600, 300), kind)
    for kept in (0, 1, 8, 20, len(data) // 4, len(data) // 2):
        assert make(data[:kept]) is None


@BOTH
@pytest.mark.parametrize("data", [
    b"", b"no image", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n" + bytes(100), b"GIF89a" + bytes(20),
    b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\nshowpage\n", b"P6 10 10 255\n" + bytes(300),
])
def test_what_is_no_image_that_we_read(make: Any, data: bytes) -> None:
    assert make(data) is None


def png(width: int, height: int) -> bytes:
    """A valid PNG of one colour, however large, in a few kilobytes."""
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packer = zlib.compressobj(9)
    row = bytes(1 + (width + 7) // 8)
    rows = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@BOTH
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("size", [(6500, 6500), (10_000, 10_000), (30_000, 30_000), (MOST_PIXELS + 1, 1)])
def test_a_decompression_bomb_is_none(make: Any, size: tuple[int, int]) -> None:
    bomb = png(*size)
    assert size[0] * size[1] > MOST_PIXELS
    assert make(bomb) is None


def test_the_bomb_is_an_image_where_it_is_small() -> None:
    assert opened(make_preview(png(2000, 1000))).size == (1000, 500)


@BOTH
def test_from_a_file(make: Any, tmp_path: Path) -> None:
    path = tmp_path / "picture"
    path.write_bytes(picture((600, 300)))
    assert make(path) == make(path.read_bytes())
    assert make(tmp_path / "missing") is None
    assert make(tmp_path) is None


@BOTH
def test_without_pillow_nothing_is_an_image(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    data = picture((600, 300))
    assert make(data) is not None
    monkeypatch.setitem(sys.modules, "PIL", None)
    assert make(data) is None
