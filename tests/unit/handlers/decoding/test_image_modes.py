"""Images of every mode and depth as RGB: transparency, palettes, more than eight bits."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from PIL import Image

from handlers.decoding.children import images
from handlers.decoding.document import read_document
from handlers.errors import MediaCorrupt
from handlers.settings import MediaSettings
from tests.unit.handlers.decoding.test_images import RED, WHITE, encoded, picture, read


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "CMYK", "YCbCr", "HSV", "LAB", "RGBX"])
def test_every_opaque_mode_becomes_rgb_that_looks_alike(mode: str) -> None:
    white = Image.new("RGB", (4, 3), WHITE)
    image = white.convert("LAB") if mode == "LAB" else white.convert(mode)
    result = read(image)
    assert result.mode == "RGB"
    assert np.asarray(result).min() >= 250


@pytest.mark.parametrize("mode", ["LA", "La", "RGBA", "RGBa", "PA"])
def test_what_is_transparent_becomes_white(mode: str) -> None:
    clear = Image.new("RGBA", (4, 3), (0, 0, 0, 0))
    if mode == "PA":
        image = Image.new("P", (4, 3))
        image.putalpha(0)
    else:
        image = clear.convert("LA").convert(mode) if mode == "La" else clear.convert(mode)
    assert image.mode == mode
    assert np.asarray(read(image)).min() == 255


def letters(kind: str, colour: tuple[int, int, int], alpha: int = 255) -> Image.Image:
    """Return a shape of one colour on a transparent ground, in 700 rows, of which the upper ones are empty."""
    image = Image.new("RGBA", (40, 700), (255, 255, 255, 0))
    image.paste((*colour, alpha), (10, 500, 20, 600))
    return image.convert(kind)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "La", "PA"])
def test_white_on_a_transparent_ground_is_seen_on_black(mode: str) -> None:
    image = letters("LA", WHITE).convert("La") if mode == "La" else letters("RGBA", WHITE).convert(mode)
    result = read(image)
    assert (result.getpixel((15, 550)), result.getpixel((0, 0))) == (WHITE, (0, 0, 0))


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "GIF", "TIFF", "AVIF"])
def test_white_on_transparent_is_seen_on_black_in_files(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the image comes from a child, in strips, and as a page."""
    content = encoded(letters("RGBA", (250, 251, 252)), kind)
    monkeypatch.setattr(images, "_STRIP_PIXELS", 5000)
    _, *strips = images.image(content, what="it", max_pixels=10**6)
    page = read_document(content, field="data.document", limits=MediaSettings())[0]["image"]
    assert page is not None
    apart = Image.frombytes("RGB", (40, 700), b"".join(strip for _, strip in strips))
    for result in (read(content), page, apart):
        seen = np.asarray(result)
        assert (seen[550, 15].min() > 240, seen[0, 0].max() < 10) == (True, True)


@pytest.mark.parametrize(
    "image",
    [
        letters("RGBA", (0, 0, 0)),
        letters("RGBA", (200, 200, 200)),
        letters("RGBA", WHITE, alpha=8),
        Image.new("RGBA", (40, 700), (255, 255, 255, 0)),
        Image.new("RGBA", (40, 700), (255, 255, 255, 255)),
    ],
    ids=["black", "grey", "hardly anything", "nothing", "all white"],
)
def test_what_is_seen_on_white_or_nowhere_stays_on_white(image: Image.Image) -> None:
    assert read(image).getpixel((0, 0)) == WHITE


def test_half_transparent_black_is_grey() -> None:
    assert np.asarray(read(encoded(Image.new("RGBA", (2, 2), (0, 0, 0, 128))))).mean() == 127


@pytest.mark.parametrize("kind", ["PNG", "GIF"])
def test_a_palette_with_a_transparent_color_becomes_white_there(kind: str) -> None:
    image = Image.new("P", (4, 3), 1)
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putpixel((0, 0), 0)
    result = read(encoded(image, kind, transparency=1))
    assert result.getpixel((0, 0)) == RED
    assert result.getpixel((3, 2)) == WHITE


def test_an_rgb_png_with_a_transparent_color_becomes_white_there() -> None:
    result = read(encoded(picture(), transparency=(0, 0, 255)))
    assert result.getpixel((0, 0)) == RED
    assert result.getpixel((39, 29)) == WHITE


def test_a_cmyk_jpeg_keeps_its_colors() -> None:
    image = read(encoded(Image.new("RGB", (16, 16), RED).convert("CMYK"), "JPEG"))
    red, green, blue = image.getpixel((8, 8))  # type: ignore[misc]
    assert (red > 240, green < 20, blue < 20) == (True, True, True)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled_to_eight(kind: str) -> None:
    levels = np.array([[0, 257, 32768, 65535]], np.uint16)
    assert np.asarray(read(encoded(Image.fromarray(levels), kind)))[0, :, 0].tolist() == [0, 1, 128, 255]


def test_sixteen_bits_that_hold_values_of_eight_are_not_scaled() -> None:
    levels = np.array([[0, 100, 255]], np.uint16)
    for value in (levels, encoded(Image.fromarray(levels), "PNG"), encoded(Image.fromarray(levels), "TIFF")):
        assert np.asarray(read(value))[0, :, 0].tolist() == [0, 100, 255]
    above = np.array([[0, 0, 256]], np.uint16)
    for value in (above, encoded(Image.fromarray(above), "PNG")):
        assert np.asarray(read(value))[0, :, 0].tolist() == [0, 0, 1]


def test_big_endian_sixteen_bits_are_scaled_too() -> None:
    image = Image.frombytes("I;16B", (2, 1), struct.pack(">HH", 0, 65535))
    assert np.asarray(read(image))[0, :, 0].tolist() == [0, 255]


def test_integers_beyond_sixteen_bits_are_stretched_over_their_range() -> None:
    levels = np.array([[-100_000, 0, 100_000]], np.int32)
    assert np.asarray(read(Image.fromarray(levels)))[0, :, 0].tolist() == [0, 128, 255]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.0, 0.5, 1.0], [0, 128, 255]),
        ([0.0, 127.0, 255.0], [0, 127, 255]),
        ([-2.0, 0.0, 2.0], [0, 128, 255]),
    ],
)
def test_floats_count_from_0_to_1_or_to_255_else_they_are_stretched(values: list[float], expected: list[int]) -> None:
    image = Image.fromarray(np.array([values], np.float32))
    assert np.asarray(read(encoded(image, "TIFF")))[0, :, 0].tolist() == expected


def test_pixels_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(MediaCorrupt, match="NaN"):
        read(Image.fromarray(np.array([[0.0, np.nan]], np.float32)))
