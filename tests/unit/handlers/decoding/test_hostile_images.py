"""Images that mean harm: decoded in a child process, refused beyond its limits; ordinary ones stay here."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest
from PIL import Image

from handlers.decoding.children import images, processes
from handlers.decoding.document import read_document
from handlers.decoding.image_files import upright_rgb
from handlers.decoding.images import read_image
from handlers.errors import MediaCorrupt, MediaTooLarge
from handlers.media import Media
from handlers.settings import MediaSettings
from tests import hostile_images as hostile

pytestmark = pytest.mark.processes

SHORT = MediaSettings(decode_timeout_s=1, document_timeout_s=1)
TINY = MediaSettings(decode_memory_bytes=128 << 20, max_image_pixels=1_000_000, decode_timeout_s=120)


def read(content: bytes, limits: MediaSettings) -> Image.Image:
    return read_image(Media(content, "s3://b/x"), field="data.image", limits=limits)


def encoded(kind: str, picture: Image.Image | None = None, **how: Any) -> bytes:
    file = io.BytesIO()
    (picture or Image.new("RGB", (40, 30), "red")).save(file, kind, **how)
    return file.getvalue()


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is called in children, in this test."""
    made: list[str] = []
    call = processes.pictures.call

    def watched(function: str, *more: object) -> object:
        made.append(function)
        return call(function, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(processes.pictures, "call", watched)
    return made


@pytest.mark.parametrize(
    ("made", "kind"),
    [
        (lambda: hostile.jpeg_of_scans(60_000, 8000), "JPEG"),
        (lambda: hostile.plain_ppm(3000, 2000), "PPM"),
        (lambda: hostile.tiff_of_strips(2_000_000), "TIFF"),
    ],
    ids=["scans", "plain", "strips"],
)
def test_an_image_that_takes_minutes_is_refused_with_the_limit(made: Callable[[], bytes], kind: str) -> None:
    with pytest.raises(
        MediaTooLarge,
        match=r"^data\.image \(s3://b/x\) takes longer to decode than media\.decode_timeout_s allows \(1 s\): "
        "save it again as an ordinary JPEG or PNG$",
    ):
        read(made(), SHORT)
    assert read(encoded(kind), MediaSettings()).getpixel((5, 5)) is not None


def test_an_image_that_takes_much_memory_is_refused_with_the_limit() -> None:
    with pytest.raises(
        MediaTooLarge,
        match=r"takes more memory to decode than media\.decode_memory_bytes and media\.max_image_pixels allow",
    ):
        read(hostile.tiff_of_strips(2_000_000), TINY)  # whose table alone takes more


def test_a_tiff_of_more_pages_than_can_be_counted_in_time_is_refused() -> None:
    with pytest.raises(MediaTooLarge, match=r"takes longer to decode than media\.document_timeout_s"):
        read_document(hostile.tiff_of_pages(300_000), field="data.document", limits=SHORT)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
def test_ordinary_images_are_decoded_here(kind: str, calls: list[str]) -> None:
    assert read(encoded(kind), MediaSettings()).size == (40, 30)
    assert calls == []


@pytest.mark.parametrize("kind", ["TIFF", "AVIF", "PPM"])
def test_images_of_rare_formats_come_from_a_child_and_are_the_same(kind: str, calls: list[str]) -> None:
    picture = Image.effect_noise((40, 30), 50).convert("RGB")
    content = encoded(kind, picture)
    found = read(content, MediaSettings())
    assert len(calls) == 1
    about, *strips = images.image(content, what="it", max_pixels=10_000)
    assert about[0]["size"] == (40, 30)
    assert found.tobytes() == b"".join(strip for _, strip in strips)
    assert (found.mode, found.size) == ("RGB", (40, 30))


def test_a_large_file_and_a_jpeg_of_many_scans_come_from_a_child(calls: list[str]) -> None:
    large = encoded("BMP", Image.new("RGB", (2000, 1500)))
    assert len(large) > 8 << 20
    assert read(large, MediaSettings()).size == (2000, 1500)
    assert read(hostile.jpeg_of_scans(60, 80), MediaSettings()).size == (80, 80)
    assert len(calls) == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"II*\0" + bytes(20), "is a TIFF image that is"), (b"nothing at all", "is a plain text, not an image")],
)
def test_refusals_come_through_as_they_are(content: bytes, message: str) -> None:
    with pytest.raises(MediaCorrupt, match=rf"^data\.image \(s3://b/x\) {message}"):
        read(content, MediaSettings())


def test_more_pixels_than_allowed_are_refused_from_a_child_too() -> None:
    with pytest.raises(MediaTooLarge, match=r"is 40 x 30 = 1200 pixels; media\.max_image_pixels allows 1000"):
        read(encoded("TIFF"), MediaSettings(max_image_pixels=1000))


SIDE = 4000
ALLOWED = MediaSettings(max_image_pixels=SIDE**2, decode_memory_bytes=128 << 20, decode_timeout_s=600)


@pytest.mark.parametrize(
    ("kind", "mode", "how"),
    [
        ("PNG", "RGBA", {}),
        ("WEBP", "RGB", {"lossless": True, "method": 0, "quality": 0}),
        ("WEBP", "RGBA", {"lossless": True, "method": 0, "quality": 0}),
        ("TIFF", "RGBA", {"compression": "tiff_lzw"}),
        ("TIFF", "F", {"compression": "tiff_lzw"}),
        ("AVIF", "RGB", {"speed": 10}),
        ("GIF", "P", {}),
    ],
)
def test_what_the_limit_of_pixels_allows_is_decoded_in_a_child(
    kind: str, mode: str, how: dict[str, Any], calls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("handlers.decoding.images._QUICK_PIXELS", 0)
    content = encoded(kind, Image.new(mode, (SIDE, SIDE)), **how)
    assert read(content, ALLOWED).size == (SIDE, SIDE)
    assert len(calls) == 1


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "F", "I;16"])
def test_an_image_from_a_child_is_the_one_decoded_here(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    picture = Image.linear_gradient("L").resize((90, 700))
    content = encoded("TIFF", picture.convert("F" if mode == "I;16" else mode).convert(mode))
    monkeypatch.setattr(images, "_STRIP_PIXELS", 5000)
    here = upright_rgb(Image.open(io.BytesIO(content)), "it")
    _, *strips = images.image(content, what="it", max_pixels=10**6)
    assert len(strips) > 1
    assert here.tobytes() == b"".join(strip for _, strip in strips)
    assert read(content, MediaSettings()).tobytes() == here.tobytes()
