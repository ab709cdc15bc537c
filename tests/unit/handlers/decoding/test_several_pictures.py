"""Image files of several pages, frames, copies or masks: what is read of them, and that the result says what is not."""

from __future__ import annotations

import io
from typing import Any

import pytest
from PIL import Image, TiffImagePlugin

from handlers.decoding.document import read_document
from handlers.document_analysis import DocumentAnalysisHandler
from handlers.ocr import OcrHandler
from handlers.settings import MediaSettings
from handlers.vlm import VlmHandler

COLOURS = ("red", "lime", "blue")


def several(kind: str, count: int = 3) -> bytes:
    pictures = [Image.new("RGB", (60, 40), colour) for colour in COLOURS[:count]]
    file = io.BytesIO()
    pictures[0].save(file, kind, **({"save_all": True, "append_images": pictures[1:]} if count > 1 else {}))
    return file.getvalue()


def is_red(image: Image.Image) -> bool:
    red, green, blue = image.getpixel((30, 20))  # type: ignore[misc]
    return bool(red > 200 and green < 50 and blue < 50)


@pytest.mark.parametrize("kind", ["TIFF", "GIF", "WEBP", "AVIF", "PNG"])
def test_an_image_of_several_says_that_the_first_alone_was_read(kind: str) -> None:
    inputs = OcrHandler().preprocess({"image": several(kind)}, {})
    assert is_red(inputs["image"])
    assert inputs["truncated"] == "data.image (bytes) has several pages or frames; only the first was read"


@pytest.mark.parametrize("kind", ["TIFF", "GIF", "WEBP", "AVIF", "PNG", "JPEG"])
def test_an_image_of_one_says_nothing(kind: str) -> None:
    assert "truncated" not in OcrHandler().preprocess({"image": several(kind, 1)}, {})


def test_pictures_that_belong_to_the_first_are_not_missed() -> None:
    assert "truncated" not in OcrHandler().preprocess({"image": several("MPO")}, {})


def test_each_of_several_images_says_what_is_left_out() -> None:
    images = [several("GIF"), several("GIF", 1), several("PNG")]
    inputs = VlmHandler().preprocess({"images": images, "prompt": "What?"}, {})
    assert [part.partition(" (")[0] for part in inputs["truncated"].split("; data")] == [
        "data.images[0]",
        ".images[2]",
    ]


@pytest.mark.parametrize(("kind", "pages"), [("TIFF", 3), ("GIF", 1), ("WEBP", 1), ("PNG", 1)])
def test_a_document_has_every_page_of_a_tiff_and_says_what_it_leaves_out_of_others(kind: str, pages: int) -> None:
    inputs = DocumentAnalysisHandler().preprocess({"document": several(kind)}, {})
    assert len(inputs["pages"]) == pages
    assert ("truncated" in inputs) is (pages == 1)


def test_a_gif_whose_second_frame_is_damaged_is_read() -> None:
    content = several("GIF")
    inputs = OcrHandler().preprocess({"image": content[: content.rindex(b"!\xf9\x04")] + bytes(20)}, {})
    assert is_red(inputs["image"])


@pytest.mark.parametrize("kinds", [(0, 1, 0), (0, 4, 0), (1, 0, 0), (0, 0, 5)])
def test_copies_and_masks_in_a_tiff_are_no_pages(kinds: tuple[int, ...]) -> None:
    file = io.BytesIO()
    with TiffImagePlugin.AppendingTiffWriter(file, True) as writer:
        for kind, colour in zip(kinds, COLOURS, strict=True):
            picture = Image.new("RGB", (60, 40), colour)
            picture.save(writer, "TIFF", tiffinfo={254: kind})
            writer.newFrame()
    read: list[Any] = list(read_document(file.getvalue(), field="data.document", limits=MediaSettings()))
    assert [page["number"] for page in read] == [1, 2]
    shown = [page["image"].getpixel((3, 3)) for page in read]
    plain = [Image.new("RGB", (1, 1), colour).getpixel((0, 0)) for colour in COLOURS]
    assert shown == [colour for colour, kind in zip(plain, kinds, strict=True) if not kind]
