"""Images of every mode and depth as RGB: transparency, palettes, more than eight bits."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from PIL import Image

from handlers.errors import MediaCorrupt
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
def test_floats_count_from_0_to_1_or_to_255_else_they_are_stretched(
    values: list[float], expected: list[int]
) -> None:
    image = Image.fromarray(np.array([values], np.float32))
    assert np.asarray(read(encoded(image, "TIFF")))[0, :, 0].tolist() == expected


def test_pixels_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(MediaCorrupt, match="NaN"):
        read(Image.fromarray(np.array([[0.0, np.nan]], np.float32)))
