"""Text layers of PDFs: scripts from right to left, broken and turned words, and how much of a page they cover."""

from __future__ import annotations

import numpy as np
import pytest

from handlers.decoding.document import read_document
from handlers.decoding.document_pages import Page
from handlers.settings import MediaSettings
from tests.documents import Line, text_pdf
from tests.glyphs import Picture, Text, drawn_pdf, lines_of_text

WHOLE_PAGE = Picture((0, 0, 612, 792))
SCALE = 150 / 72


def read(content: bytes) -> Page:
    [page] = read_document(content, field="data.document", limits=MediaSettings())
    return page


def texts(page: Page) -> list[str]:
    return [word["text"] for word in page["words"] or []]


def test_a_line_from_right_to_left_comes_with_its_letters_in_order() -> None:
    page = read(drawn_pdf(Text(60, 700, "שלום עולם"[::-1])))
    assert sorted(texts(page)) == sorted(["שלום", "עולם"])


def test_a_word_broken_at_the_end_of_a_line_is_two_words_each_with_its_box() -> None:
    page = read(drawn_pdf(Text(60, 700, "is dan-"), Text(60, 680, "gerous stuff")))
    assert texts(page) == ["is", "dan-", "gerous", "stuff"]
    boxes = [word["box"] for word in page["words"] or []]
    assert boxes[1][3] <= boxes[2][1] + 2
    assert boxes[1][0] > boxes[2][0]


@pytest.mark.parametrize("rotate", [0, 90])
def test_what_is_filled_into_a_form_is_read_with_the_text_around_it(rotate: int) -> None:
    page = read(text_pdf([[Line(72, 100, "Name:")]], rotate=rotate, field="Jane Filled"))
    assert set(texts(page)) == {"Name:", "Jane", "Filled"}


@pytest.mark.parametrize("rotate", [0, 90, 180, 270])
@pytest.mark.parametrize("degrees", [10, 45, 90, 180, 300])
def test_turned_text_has_polygons_that_start_at_its_top_left(degrees: float, rotate: int) -> None:
    page = read(drawn_pdf(Text(300, 400, "DRAFT", size=20, degrees=degrees), rotate=rotate))
    [word] = page["words"] or []
    is_level = (degrees - rotate) % 360 == 0
    assert ("polygon" in word) is not is_level
    if is_level:
        return
    (left, top), (right, lower), _, (below, bottom) = word["polygon"]
    length, height = complex(right - left, lower - top), complex(below - left, bottom - top)
    assert abs(length) == pytest.approx(5 * 0.6 * 20 * SCALE, rel=0.15)
    assert abs(height) == pytest.approx(20 * SCALE, rel=0.15)
    # On the screen, y grows downwards: what runs up at 10 degrees has a direction of -10.
    turned = length / abs(length) * complex(0, 1)
    assert abs(turned - height / abs(height)) < 0.1
    assert all(0 <= point[0] <= page["width"] and 0 <= point[1] <= page["height"] for point in word["polygon"])


def test_level_text_has_no_polygons() -> None:
    page = read(drawn_pdf(Text(300, 400, "level")))
    assert ["polygon" in word for word in page["words"] or []] == [False]


@pytest.mark.parametrize("stamp", ["- 1 -", "Scanned by X", "RECEIVED 2024-05-06 11:37"])
@pytest.mark.parametrize("in_form", [False, True])
@pytest.mark.parametrize("rotate", [0, 90])
def test_a_scan_with_a_stamp_is_read_from_its_picture_and_keeps_the_stamp(
    stamp: str, in_form: bool, rotate: int
) -> None:
    scan = Picture((0, 0, 612, 792), in_form=in_form)
    page = read(drawn_pdf(scan, Text(300, 20, stamp), rotate=rotate))
    assert page["words"] is None
    assert page["image"] is not None
    assert " ".join(word["text"] for word in page["layer"]) == stamp


@pytest.mark.parametrize(
    "box", [(56, 60, 500, 680), (0, 0, 612, 400), (60, 300, 490, 330)], ids=["margins", "half", "third"]
)
def test_a_picture_that_takes_a_good_part_of_a_page_is_to_be_read(
    box: tuple[float, float, float, float],
) -> None:
    page = read(drawn_pdf(Picture(box), Text(60, 750, "Enclosed please find our invoice")))
    assert page["words"] is None
    assert len(page["layer"]) == 5


def test_a_scan_in_strips_is_a_scan() -> None:
    strips = [Picture((0, 8 * index, 612, 8)) for index in range(99)]
    assert read(drawn_pdf(*strips, Text(300, 20, "- 1 -")))["words"] is None


@pytest.mark.parametrize("is_invisible", [False, True])
@pytest.mark.parametrize("lines", [40, 46])
def test_a_scan_that_was_read_before_has_its_words(is_invisible: bool, lines: int) -> None:
    page = read(drawn_pdf(WHOLE_PAGE, *lines_of_text(lines, is_invisible=is_invisible)))
    assert len(page["words"] or []) == 10 * lines
    assert (page["layer"], page["image"]) == ([], None)


def test_a_sparse_scan_whose_text_was_read_before_has_its_words() -> None:
    page = read(drawn_pdf(WHOLE_PAGE, *lines_of_text(2, is_invisible=True)))
    assert len(page["words"] or []) == 20


@pytest.mark.parametrize("box", [(60, 700, 80, 60), (60, 400, 200, 150), (400, 60, 150, 600)])
def test_a_page_of_text_with_a_small_picture_has_its_words(box: tuple[float, float, float, float]) -> None:
    page = read(drawn_pdf(Picture(box), *lines_of_text(20, top=380)))
    assert len(page["words"] or []) == 200
    assert page["image"] is None


@pytest.mark.parametrize("rotate", [0, 90, 180, 270])
@pytest.mark.parametrize("box", [(60, 400, 200, 150), (400, 60, 150, 600), (60, 60, 300, 250)])
def test_a_picture_fine_enough_for_letters_is_to_be_read_alone(
    box: tuple[float, float, float, float], rotate: int
) -> None:
    texts = [Text(200, 750, "Please see the table"), Text(200, 20, "Invoice")]
    content = drawn_pdf(Picture(box), *texts, rotate=rotate, pixels=300)
    page = read(content)
    assert page["words"] is None
    assert len(page["layer"]) == 5
    assert page["image"] is not None
    left, top, right, bottom = page["unread"] or (0, 0, 0, 0)
    assert page["image"].size == (right - left, bottom - top)
    assert sorted(page["image"].size) == pytest.approx(sorted(side * SCALE for side in box[2:]), abs=2)
    [pictured] = read_document(content, field="x", limits=MediaSettings(), with_images=True)
    assert pictured["image"] is not None
    assert pictured["image"].size == (page["width"], page["height"])
    part = pictured["image"].crop((left, top, right, bottom))
    assert np.abs(np.asarray(part, int) - np.asarray(page["image"], int)).mean() < 2


@pytest.mark.parametrize("box", [(60, 700, 80, 60), (60, 700, 400, 50), (500, 60, 30, 700)])
def test_a_logo_is_not_read(box: tuple[float, float, float, float]) -> None:
    page = read(drawn_pdf(Picture(box), *lines_of_text(20, top=600), pixels=300))
    assert (len(page["words"] or []), page["image"]) == (200, None)


def test_a_page_of_text_alone_is_never_a_scan() -> None:
    assert texts(read(drawn_pdf(Text(60, 700, "alone")))) == ["alone"]


def test_every_page_tells_its_dpi() -> None:
    assert read(drawn_pdf(Text(60, 700, "x")))["dpi"] == 150
    assert read(drawn_pdf(WHOLE_PAGE))["dpi"] == 150
