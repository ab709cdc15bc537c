"""Images of each format, mode, depth and orientation; what is refused, and before how much work."""

from __future__ import annotations

import contextlib
import io
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image

from handlers.decoding.image_files import FORMATS
from handlers.decoding.images import read_image, read_images
from handlers.errors import InvalidInput, MediaCorrupt, MediaTooLarge
from handlers.media import Media
from handlers.settings import MediaSettings

MAX_PIXELS = 1_000_000
RED, WHITE = (255, 0, 0), (255, 255, 255)
LOSSLESS = ("PNG", "TIFF", "BMP", "PPM")


def read(value: Any, max_pixels: int = MAX_PIXELS) -> Image.Image:
    return read_image(value, field="data.image", limits=MediaSettings(max_image_pixels=max_pixels))


def encoded(image: Image.Image, kind: str = "PNG", **more: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **more)
    return buffer.getvalue()


def picture(width: int = 40, height: int = 30) -> Image.Image:
    """Return a picture whose left upper corner is red, the rest blue."""
    image = Image.new("RGB", (width, height), (0, 0, 255))
    image.paste(RED, (0, 0, width // 2, height // 2))
    return image


def png_claiming(width: int, height: int) -> bytes:
    """Return a PNG file of a few bytes whose header claims `width` x `height` pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


@pytest.mark.parametrize("kind", FORMATS)
def test_every_allowed_format_is_read_from_bytes_and_media_alike(kind: str) -> None:
    content = encoded(picture(), kind)
    images = [read(content), read(bytearray(content)), read(Media(content, "s3://b/k"))]
    for image in images:
        assert (type(image), image.mode, image.size) == (Image.Image, "RGB", (40, 30))
        near = np.abs(np.asarray(image, np.int16) - np.asarray(picture(), np.int16)).mean()
        assert near == 0 if kind in LOSSLESS else near < 12


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("share", [0.02, 0.5, 0.9])
def test_a_file_cut_short_is_corrupt(kind: str, share: float) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    content = encoded(Image.fromarray(pixels), kind)
    with pytest.raises(MediaCorrupt, match=r"data\.image \(s3://b/k\) .*send a whole"):
        read(Media(content[: int(len(content) * share)], "s3://b/k"))


@pytest.mark.parametrize("content", [b"", b"P", b"not an image at all", b"%PDF-1.7 ...", b"\xff\xd8\xff", bytes(64)])
def test_bytes_that_are_no_image_are_corrupt(content: bytes) -> None:
    with pytest.raises(MediaCorrupt, match="send a whole JPEG, PNG"):
        read(content)


@pytest.mark.parametrize("kind", ["EPS", "PDF", "ICO", "TGA", "PCX"])
def test_formats_that_are_not_allowed_are_not_opened(kind: str) -> None:
    with pytest.raises(MediaCorrupt, match=r"of a known format|not an image|which is not read; convert"):
        read(encoded(picture(), kind))


@pytest.mark.parametrize("packing", [{}, {"compress_level": 0}, {"bits": 1}])
def test_a_png_whose_pixels_were_overwritten_is_corrupt_where_they_unpack_as_well(
    packing: dict[str, Any],
) -> None:
    whole = encoded(Image.effect_noise((300, 300), 60).convert("P"), **packing)
    assert read(whole).size == (300, 300)
    start = whole.index(b"IDAT") + 4
    size = int.from_bytes(whole[start - 8 : start - 4], "big")
    for share in (0.1, 0.5, 0.9):
        damaged = bytearray(whole)
        at = start + int(size * share)
        damaged[at : at + size // 12] = bytes(size // 12)
        with pytest.raises(MediaCorrupt, match=r"is damaged: the checksum of its pixels is wrong; send a whole"):
            read(bytes(damaged))


def test_random_damage_never_raises_anything_but_our_errors() -> None:
    rng = np.random.default_rng(0)
    for kind in FORMATS:
        content = np.frombuffer(encoded(picture(), kind), np.uint8)
        for _ in range(40):
            damaged = content.copy()
            damaged[rng.integers(0, len(content), 4)] = rng.integers(0, 256, 4)
            with contextlib.suppress(MediaCorrupt, MediaTooLarge):
                assert read(damaged.tobytes()).mode == "RGB"


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_the_exif_orientation_is_applied_once(kind: str, orientation: int) -> None:
    back = {
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }[orientation]
    stored = picture() if back is None else picture().transpose(back)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    content = encoded(stored, kind, exif=exif.tobytes())
    for value in (content, Image.open(io.BytesIO(content))):
        image = read(value)
        assert image.size == (40, 30)
        red, green, blue = image.getpixel((4, 4))  # type: ignore[misc]
        assert red > 200 > 100 > green
        assert blue < 100
        assert image.getexif().get(ExifTags.Base.Orientation) is None


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")  # Pillow's own, harmless
def test_an_unreadable_exif_block_does_not_cost_the_image() -> None:
    content = encoded(picture(), "JPEG", exif=b"Exif\x00\x00MM\x00\x2a\xff\xff\xff\xff")
    assert read(content).size == (40, 30)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF", "AVIF"])
def test_of_an_animation_the_first_frame_is_taken(kind: str) -> None:
    frames = [Image.new("RGB", (32, 32), color) for color in ("red", "green", "blue")]
    content = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
    red, green, blue = read(content).getpixel((8, 8))  # type: ignore[misc]
    assert (red > 200, green < 60, blue < 60) == (True, True, True)


def test_a_bomb_is_refused_by_its_header() -> None:
    with pytest.raises(MediaTooLarge) as caught:
        read(Media(png_claiming(60_000, 60_000), "s3://b/bomb.png"), max_pixels=100_000_000)
    assert caught.value.message == (
        "data.image (s3://b/bomb.png) is 60000 x 60000 = 3600000000 pixels; "
        "media.max_image_pixels allows 100000000: scale it down"
    )


def test_an_image_above_pillows_own_limit_is_read_where_ours_allows_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert read(encoded(picture())).size == (40, 30)


@pytest.mark.parametrize(
    "value", [encoded(picture()), picture(), np.zeros((30, 40, 3), np.uint8)], ids=["bytes", "PIL", "array"]
)
def test_the_limit_on_pixels_holds_for_every_kind_of_value(value: Any) -> None:
    assert read(value, max_pixels=1200).size == (40, 30)
    with pytest.raises(MediaTooLarge, match=r"40 x 30 = 1200 pixels; .* allows 1199"):
        read(value, max_pixels=1199)


def test_a_pil_image_is_copied_not_changed(tmp_path: Path) -> None:
    mine = picture()
    mine.info["note"] = "kept"
    read(mine).putpixel((0, 0), (1, 2, 3))
    assert mine.getpixel((0, 0)) == RED
    assert mine.info == {"note": "kept"}


@pytest.mark.parametrize(
    "array",
    [
        np.full((30, 40), 255, np.uint8),
        np.full((30, 40, 1), 255, np.uint8),
        np.full((30, 40, 3), 255, np.uint8),
        np.full((30, 40, 4), 255, np.uint8),
        np.full((30, 40, 3), 65535, np.uint16),
        np.full((30, 40, 3), 1.0, np.float32),
        np.full((30, 40), 1.0, np.float64),
        np.full((30, 40), 1.0, np.float16),
        np.full((60, 40, 3), 255, np.uint8)[::2],
    ],
    ids=lambda array: f"{array.dtype}{array.shape}",
)
def test_arrays_of_every_allowed_kind_are_taken(array: Any) -> None:
    image = read(array)
    assert (image.mode, image.size, np.asarray(image).min()) == ("RGB", (40, 30), 255)


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.zeros((4, 5, 2), np.uint8), "shape (4, 5, 2)"),
        (np.zeros((3, 4, 5, 3), np.uint8), "shape (3, 4, 5, 3)"),
        (np.zeros(5, np.uint8), "shape (5,)"),
        (np.zeros((0, 5, 3), np.uint8), "shape (0, 5, 3)"),
        (np.zeros((4, 5), np.int64), "an array of int64; it must be uint8, uint16 or float"),
        (np.full((4, 5), 255.0), "values from 255 to 255; floats must lie within 0..1"),
        (np.full((4, 5), -0.1), "values from -0.1 to -0.1"),
        (np.full((4, 5), np.nan), "values from nan to nan"),
    ],
)
def test_other_arrays_are_refused_with_the_reason(array: Any, reason: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        read(array)
    assert caught.value.message.startswith("data.image has ") or caught.value.message.startswith("data.image is ")
    assert reason in caught.value.message


@pytest.mark.parametrize(
    ("value", "reason"),
    [("s3://b/k.png", '"s3://b/k.png", which was not fetched'), (7, "is 7; it must be one address")],
)
def test_other_values_are_refused_with_the_way_out(value: Any, reason: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        read(value)
    assert reason in caught.value.message


def test_images_come_in_the_order_they_were_given() -> None:
    data = {"images": [encoded(Image.new("RGB", (size, 5))) for size in (3, 1, 2)]}
    assert [image.width for image in read_images(data, MediaSettings())] == [3, 1, 2]
    assert len(read_images({"image": encoded(picture())}, MediaSettings())) == 1


def as_array(width: int, height: int) -> Any:
    return np.zeros((height, width, 3), np.uint8)


@pytest.mark.parametrize(
    "make",
    [lambda *size: encoded(picture(*size)), png_claiming, picture, as_array],
    ids=["bytes", "headers", "PIL", "arrays"],
)
def test_all_images_of_a_request_share_the_limit_on_pixels_and_are_counted_before_any_is_decoded(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[Any] = []
    monkeypatch.setattr(Image.Image, "convert", lambda image, *_: decoded.append(image))
    limits = MediaSettings(max_image_pixels=3000)
    with pytest.raises(MediaTooLarge) as caught:
        read_images({"images": [make(40, 30), make(30, 20), make(40, 31)]}, limits)
    assert decoded == []
    assert caught.value.message.startswith("data.images has 3040 pixels by data.images[2]")
    assert caught.value.message.endswith(
        ", which is 40 x 31; media.max_image_pixels allows 3000: send fewer of them in one request, or scale them down"
    )


def test_as_many_pixels_as_the_limit_allows_are_read() -> None:
    limits = MediaSettings(max_image_pixels=3000)
    images = [encoded(picture(40, 30)), picture(30, 20), as_array(40, 30)]
    assert [image.size for image in read_images({"images": images}, limits)] == [(40, 30), (30, 20), (40, 30)]


def test_one_image_above_the_limit_is_named_by_itself() -> None:
    with pytest.raises(MediaTooLarge, match=r"data\.images\[0\] is 40 x 30 = 1200 pixels; .*: scale it down"):
        read_images({"images": [as_array(40, 30), picture()]}, MediaSettings(max_image_pixels=1199))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ({}, "data.image (one image) or data.images (a list) is required; got nothing"),
        ({"prompt": "x"}, "is required; got prompt"),
        ({"image": picture(), "images": [picture()]}, "are both given"),
        ({"images": []}, "it must be a list of at least one image"),
        ({"images": picture()}, "it must be a list"),
        ({"images": [picture()] * 3}, "data.images holds 3 images; media.max_images allows 2"),
        ({"images": [picture(), None]}, "data.images[1] is None"),
    ],
)
def test_a_wrong_number_of_images_is_refused(data: dict[str, Any], reason: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        read_images(data, MediaSettings(max_images=2))
    assert reason in caught.value.message


def test_the_bad_one_of_several_is_named() -> None:
    with pytest.raises(MediaCorrupt, match=r"data\.images\[1\]"):
        read_images({"images": [picture(), b"?"]}, MediaSettings())


def test_many_threads_may_read_at_once() -> None:
    content = encoded(picture())
    with ThreadPoolExecutor(8) as pool:
        images = list(pool.map(read, [content] * 64))
    assert {image.tobytes() for image in images} == {picture().tobytes()}


@pytest.mark.parametrize("size", [(201, 1), (1, 201), (1, 100_000)])
def test_a_picture_of_an_extreme_shape_is_refused_and_a_long_one_is_not(size: tuple[int, int]) -> None:
    for value in (encoded(Image.new("RGB", size)), Image.new("RGB", size)):
        with pytest.raises(MediaTooLarge, match=r"one side may be at most 200 times the other"):
            read(value)
    assert read(encoded(Image.new("RGB", (200, 1)))).width == 200
