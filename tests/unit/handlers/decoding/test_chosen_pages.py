"""Which pages of a document are read, and how many pages and pixels may be."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from handlers.errors import InvalidInput, MediaTooLarge
from handlers.settings import MediaSettings
from tests.documents import Line, scanned_pdf, text_pdf
from tests.unit.handlers.decoding.test_document import TWO_PAGES, picture, read, tiff, words


@pytest.mark.parametrize(
    ("pages", "numbers"),
    [
        (None, [1, 2, 3, 4, 5]),
        (2, [2]),
        ([3, 1], [1, 3]),
        ((5,), [5]),
        ("1-3,5", [1, 2, 3, 5]),
        (" 4 , 2-2 ", [2, 4]),
        ("1-3,2-4", [1, 2, 3, 4]),
    ],
)
def test_the_named_pages_come_once_and_in_order(pages: Any, numbers: list[int]) -> None:
    document = text_pdf([[Line(50, 60, f"page {number}")] for number in range(1, 6)])
    found = read(document, pages=pages)
    assert [page["number"] for page in found] == numbers
    assert [words(page)[1] for page in found] == [str(number) for number in numbers]


@pytest.mark.parametrize("pages", [0, -1, 6, [1, 9], "2-9", "4-2", "0", "1-999999999"])
def test_a_page_the_document_does_not_have_is_named(pages: Any) -> None:
    document = text_pdf([[Line(50, 60, "x")]] * 5)
    with pytest.raises(InvalidInput, match=r"data\.pages names .*; data\.document \(bytes\) has pages 1-5$"):
        read(document, pages=pages)


@pytest.mark.parametrize(
    "pages",
    [
        "",
        "x",
        "1-",
        "1;2",
        [],
        [1, "2"],
        {"from": 1},
        True,
        1.0,
        "1" * 5000,
        2**70,
        [-(2**70)],
        [10**5000],
        np.int64(1),
    ],
    ids=range(14),
)
def test_pages_of_the_wrong_kind_are_refused_with_the_right_kinds(pages: Any) -> None:
    with pytest.raises(InvalidInput, match=r"data\.pages is .*; it must be a page number from 1, a list of them, or"):
        read(text_pdf(TWO_PAGES), pages=pages)


def test_more_pages_than_the_limit_are_refused_unless_fewer_are_named() -> None:
    document = text_pdf([[Line(50, 60, "x")]] * 5)
    few = MediaSettings(max_pages=3)
    with pytest.raises(MediaTooLarge, match=r"has 5 pages; media\.max_pages allows 3: name some in data\.pages"):
        read(document, limits=few)
    with pytest.raises(MediaTooLarge, match=r"was asked for 4 pages; media\.max_pages allows 3"):
        read(document, limits=few, pages="1-4")
    assert len(read(document, limits=few, pages="2-4")) == 3
    with pytest.raises(MediaTooLarge, match="has 4 pages"):
        read(tiff(*[picture()] * 4), limits=few)


def test_pictures_that_are_too_much_together_are_refused_before_any_is_rendered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from pypdfium2 import PdfPage  # type: ignore[import-untyped]

    renderings: list[Any] = []
    monkeypatch.setattr(PdfPage, "render", lambda *_, **__: renderings.append(1))
    document = scanned_pdf([picture("white", (1000, 1000))] * 3)
    with pytest.raises(MediaTooLarge, match=r"pixels by page 3, which is 100\d x 100\d; media\.max_image_pixels"):
        read(document, limits=MediaSettings(max_image_pixels=2_500_000))
    assert renderings == []


def test_the_pictures_of_a_tiff_count_together() -> None:
    document = tiff(*[picture("white", (100, 100))] * 3)
    assert len(read(document, limits=MediaSettings(max_image_pixels=30_000))) == 3
    with pytest.raises(MediaTooLarge, match=r"30000 pixels by page 3.*allows 29999: name fewer pages"):
        read(document, limits=MediaSettings(max_image_pixels=29_999))


def test_a_text_layer_of_many_pages_needs_no_pixels() -> None:
    assert len(read(text_pdf([[Line(50, 60, "x")]] * 80), limits=MediaSettings(max_image_pixels=10))) == 80
