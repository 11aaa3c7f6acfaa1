"""Pictures: as displayed, and hostile files refused by their header."""

from __future__ import annotations

import re
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

from hpse_dist.data.pictures import Unreadable, picture_size, read_grey, read_picture

DATA = Path(__file__).parents[2] / "hpse_dist" / "data"


def png(width: int, height: int) -> bytes:
    """A PNG that promises a size and holds a few bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(300))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def jpeg(width: int, height: int) -> bytes:
    """A JPEG whose frame header promises a size."""
    frame = struct.pack(">HBHHB", 17, 8, height, width, 3) + bytes((1, 17, 0, 2, 17, 0, 3, 17, 0))
    return b"\xff\xd8\xff\xc0" + frame + b"\xff\xda\x00\x08" + bytes(8) + b"\xff\xd9"


def bmp(width: int, height: int) -> bytes:
    head = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 60, 0, 0, 54) + head + bytes(6)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.png", png(100_000, 100_000)),
        ("b.png", png(100_000, 100)),
        ("c.png", png(2**31 - 1, 2**31 - 1)),
        ("d.png", png(10_000, 9_000)),  # 90 megapixels: of these Pillow only warns
        ("e.jpg", jpeg(65_000, 65_000)),
        ("f.bmp", bmp(100_000, 100_000)),
        ("g.ppm", b"P6 100000 100000 255\n" + bytes(30)),
    ],
)
@pytest.mark.parametrize("read", [picture_size, read_picture, read_grey])
def test_a_header_that_promises_too_much_is_not_believed(
    tmp_path: Path, name: str, content: bytes, read: object
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    assert callable(read)
    with pytest.raises(Unreadable, match="not believed"):
        read(path)


def test_broken_and_foreign_files_are_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    with pytest.raises(Unreadable, match="the picture is missing"):
        read_picture(path)
    # Pillow would start ghostscript for the first
    for content in (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", b"", b"not a picture"):
        path.write_bytes(content)
        with pytest.raises(Unreadable, match="none of JPEG, PNG"):
            read_picture(path)
    for content in (png(100, 100), jpeg(100, 100)):
        path.write_bytes(content)
        with pytest.raises(Unreadable, match="cannot be read"):
            read_picture(path)
    with pytest.raises(Unreadable, match="cannot be read"):
        read_picture(tmp_path)


def test_size_and_picture_are_those_displayed(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (20, 30, 3), np.uint8)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    assert picture_size(tmp_path / "a.png") == (20, 30)
    assert np.array_equal(read_picture(tmp_path / "a.png"), np.rot90(pixels, -1))


def test_nothing_else_in_data_reads_pictures() -> None:
    reads = re.compile(
        r"Image\.open|cv2\.imread|cv2\.imdecode|imageio|torchvision\.io|read_image\("
    )
    users = {path.name for path in DATA.rglob("*.py") if reads.search(path.read_text("utf-8"))}
    assert users == {"pictures.py"}
