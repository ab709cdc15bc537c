"""Images that mean harm: decoded in a child process, refused beyond its limits; ordinary ones stay here."""

from __future__ import annotations

import io
from collections.abc import Callable

import pytest
from PIL import Image

from handlers.decoding import child_functions, images, processes
from handlers.document import read_document
from handlers.errors import MediaCorrupt, MediaTooLarge
from handlers.images import read_image
from handlers.media import Media
from handlers.settings import MediaSettings
from tests import hostile_images as hostile

SHORT = MediaSettings(decode_timeout_s=2)
TIGHT = MediaSettings(decode_memory_bytes=256 << 20, decode_timeout_s=120)


def read(content: bytes, limits: MediaSettings) -> Image.Image:
    return read_image(
        Media(content, "s3://b/x"),
        field="data.image",
        max_pixels=limits.max_image_pixels,
        children=limits.children,
    )


def encoded(kind: str, picture: Image.Image | None = None, **how: str) -> bytes:
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
        match=r"^data\.image \(s3://b/x\) takes longer to decode than media\.decode_timeout_s allows \(2 s\): "
        "save it anew as an ordinary JPEG or PNG$",
    ):
        read(made(), SHORT)
    assert read(encoded(kind), MediaSettings()).getpixel((5, 5)) is not None


def test_an_image_that_takes_much_memory_is_refused_with_the_limit() -> None:
    with pytest.raises(MediaTooLarge, match=r"takes more memory to decode than media\.decode_memory_bytes"):
        read(encoded("TIFF", Image.new("RGB", (9000, 9000)), compression="tiff_lzw"), TIGHT)


def test_a_tiff_of_more_pages_than_can_be_counted_in_time_is_refused() -> None:
    with pytest.raises(MediaTooLarge, match=r"takes longer to decode than media\.decode_timeout_s"):
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
    here = child_functions.image(content, what="it", max_pixels=10_000)
    assert found.tobytes() == next(here)[1]
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


@pytest.mark.parametrize(
    "save", [{"lossless": True}, {"lossless": False}, {"save_all": True, "append": True}]
)
def test_a_webp_of_many_pixels_is_decoded_in_a_child(save: dict[str, bool]) -> None:
    def webp(side: int) -> bytes:
        file = io.BytesIO()
        more = {"append_images": [Image.new("RGB", (side, side), "red")]} if save.get("append") else {}
        kept = {name: value for name, value in save.items() if name != "append"}
        Image.new("RGB", (side, side)).save(file, "WEBP", method=0, quality=0, **kept, **more)
        return file.getvalue()

    assert images.is_quick(webp(500))
    assert not images.is_quick(webp(5001))
