"""Images whose metadata are larger than their pixels: they are read, and quickly, in bounded memory."""

from __future__ import annotations

import io
import struct
import tracemalloc
import zlib
from typing import Any

import pytest
from PIL import Image

from handlers.decoding.image_files import opened_image, upright_rgb
from handlers.decoding.images import is_quick, read_image
from handlers.decoding.png_chunks import without_metadata
from handlers.errors import MediaCorrupt
from handlers.settings import MediaSettings

MIB = 1 << 20
LIMITS = MediaSettings(max_image_pixels=1000)
RED = (200, 10, 10)


def encoded(kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (32, 16), RED).save(file, kind, **options)
    return file.getvalue()


def png(*chunks: tuple[bytes, bytes], behind: bool = False) -> bytes:
    """Return a PNG with more chunks, before its pixels or behind them."""
    content = encoded("PNG")
    at = len(content) - 12 if behind else 33
    more = b"".join(
        struct.pack(">I", len(payload)) + kind + payload + struct.pack(">I", zlib.crc32(kind + payload))
        for kind, payload in chunks
    )
    return content[:at] + more + content[at:]


def jpeg(marker: int, payload: bytes, count: int = 1) -> bytes:
    """Return a JPEG with `count` more segments at its beginning."""
    content = encoded("JPEG", quality=95)
    segment = bytes([0xFF, marker]) + struct.pack(">H", len(payload) + 2) + payload
    return content[:2] + segment * count + content[2:]


def xmp(orientation: int) -> bytes:
    return f'<x:xmpmeta><rdf:Description tiff:Orientation="{orientation}"/></x:xmpmeta>'.encode()


PACKED = zlib.compress(b"x" * (5 * MIB))
BOMB = zlib.compress(b"\0" * (200 * MIB), 9)
PLAIN = b"x" * (5 * MIB)

FILES = {
    "zTXt": png((b"zTXt", b"Comment\0\0" + PACKED)),
    "zTXt behind the pixels": png((b"zTXt", b"Comment\0\0" + PACKED), behind=True),
    "compressed XMP": png((b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + PACKED)),
    "XMP": png((b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + PLAIN)),
    "raw EXIF": png((b"zTXt", b"Raw profile type exif\0\0" + PACKED)),
    "profile": png((b"iCCP", b"p\0\0" + PACKED)),
    "70 MB of texts": png(*[(b"tEXt", b"C\0" + PLAIN * 2)] * 7),
    "a bomb": png((b"zTXt", b"C\0\0" + BOMB), (b"iCCP", b"p\0\0" + BOMB)),
    "an unknown way to compress": png((b"zTXt", b"C\0\7" + PACKED), (b"iCCP", b"p\0\7" + PACKED)),
    "many texts": png(*[(b"tEXt", b"k\0v")] * 50_000),
    "JPEG of many EXIF segments": jpeg(0xE1, b"Exif\0\0" + b"x" * 65_000, 300),
    "JPEG of many XMP segments": jpeg(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + b"x" * 65_000, 300),
    "JPEG of many profiles": jpeg(0xE2, b"ICC_PROFILE\0\1\xff" + b"x" * 65_000, 300),
    "JPEG of many comments": jpeg(0xFE, b"x", 100_000),
    "TIFF with a profile": encoded("TIFF", icc_profile=b"x" * (10 * MIB)),
    "WebP with metadata": encoded("WEBP", lossless=True, icc_profile=b"x" * (10 * MIB), xmp=b"x" * (10 * MIB)),
}


@pytest.mark.parametrize("name", FILES)
def test_an_image_is_read_whatever_metadata_it_has(name: str) -> None:
    tracemalloc.start()
    try:
        image = upright_rgb(opened_image(FILES[name], "data.image"), "data.image")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (image.mode, image.size) == ("RGB", (32, 16))
    assert image.getpixel((0, 0)) == pytest.approx(RED, abs=3)
    assert peak < 4 * len(FILES[name]) + 10 * MIB


def test_a_ppm_with_a_comment_of_many_megabytes_is_read() -> None:
    content = b"P6\n#" + b"x" * (5 * MIB) + b"\n# and\n1 1 #more\n255\n\1\2\3"
    assert read_image(content, field="data.image", limits=LIMITS).getpixel((0, 0)) == (1, 2, 3)


@pytest.mark.parametrize(
    "content",
    [
        png((b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp(6)), (b"zTXt", b"Comment\0\0" + PACKED)),
        png((b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(xmp(6)))),
        jpeg(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + xmp(6)),
    ],
    ids=["png", "png-compressed", "jpeg"],
)
def test_the_orientation_in_xmp_still_counts(content: bytes) -> None:
    assert read_image(content, field="data.image", limits=LIMITS).size == (16, 32)


def test_the_orientation_in_exif_counts_among_much_else() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    content = encoded("JPEG", exif=exif, comment=b"x" * 60_000)
    padded = content[:2] + (b"\xff\xe5\xff\xff" + b"x" * 65_533) * 80 + content[2:]
    assert read_image(padded, field="data.image", limits=LIMITS).size == (16, 32)


def test_a_file_without_large_metadata_is_left_as_it_is() -> None:
    for content in (
        encoded("PNG"),
        encoded("JPEG", comment="mine"),
        encoded("GIF"),
        encoded("PPM"),
        b"P",
        b"",
    ):
        assert without_metadata(content) is content  # a copy of a large one would take as much memory again


def test_a_png_that_is_cut_or_damaged_is_told_so_in_words_of_ours() -> None:
    content = encoded("PNG")
    for damaged in (content[:40], content[:20], content[:33] + b"\0" * 40, png((b"tEXt", b"k\0v"))[:-30]):
        with pytest.raises(MediaCorrupt) as caught:
            read_image(damaged, field="data.image", limits=LIMITS)
        assert any(words in caught.value.message for words in ("cut short", "is damaged", "damaged at"))
        assert "PngImagePlugin" not in caught.value.message


def test_a_jpeg_of_very_many_segments_is_for_a_child() -> None:
    assert is_quick(jpeg(0xFE, b"x", 1000))
    assert not is_quick(jpeg(0xFE, b"x", 100_000))
