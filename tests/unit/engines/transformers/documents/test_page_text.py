"""The text of a page: from its text layer, its picture, or both, each line once and in reading order."""

from __future__ import annotations

from typing import Any

import pytest
from PIL import Image

from engines.transformers.documents.ocr_pages import PageText
from engines.transformers.documents.page_text import (
    image_to_read,
    read_from_layer,
    read_from_picture,
    transcribed,
)
from handlers.decoding.document_pages import Page, Word


def words(text: str, left: int, top: int) -> list[Word]:
    found: list[Word] = []
    for part in text.split():
        found.append({"text": part, "box": [left, top, left + 10 * len(part), top + 20]})
        left += 10 * len(part) + 6
    return found


def page(*, words: list[Word] | None = None, layer: list[Word] | None = None) -> Page:
    return {
        "number": 3,
        "width": 600,
        "height": 800,
        "dpi": 150.0,
        "image": None,
        "words": words,
        "layer": layer or [],
    }


def line(text: str, box: list[int], score: float = 0.9) -> dict[str, Any]:
    return {"text": text, "box": box, "score": score}


def seen(*lines: dict[str, Any]) -> PageText:
    return PageText("\n".join(one["text"] for one in lines), list(lines))


BODY = line("INVOICE 2024-117", [50, 100, 300, 130])
STAMP = words("- 1 -", 280, 760)


def test_a_layer_tells_its_text_with_broken_words_joined_and_its_source() -> None:
    layer = [*words("this is dan-", 50, 100), *words("gerous stuff", 50, 130)]
    read = read_from_layer(page(words=layer), layer)
    assert read.result() == {
        "number": 3,
        "width": 600,
        "height": 800,
        "dpi": 150.0,
        "text_source": "text_layer",
        "text": "this is dangerous\nstuff",
        "regions": [
            {
                "text": "this is dangerous",
                "box": [50, 100, 162, 120],
                "boxes": [[50, 100, 162, 120], [50, 130, 110, 150]],
            },
            {"text": "stuff", "box": [50, 130, 166, 150]},
        ],
    }
    assert [word["text"] for word in read.words] == ["this", "is", "dangerous", "stuff"]


def test_columns_of_a_page_from_right_to_left_begin_on_the_right() -> None:
    left = [word for row in range(3) for word in words("שמאל אחת שתיים שלוש ארבע", 20, 100 + 30 * row)]
    right = [word for row in range(3) for word in words("ימין אחת שתיים שלוש ארבע", 340, 100 + 30 * row)]
    read = read_from_layer(page(words=left + right), left + right)
    lines = read.text.text.split("\n")
    assert ["ימין" in one for one in lines] == [True] * 3 + [False] * 3
    assert lines[0] == "ארבע שלוש שתיים אחת ימין"  # the words of this test stand from left to right


TURNED_LINES = ["First page alpha", "Second of them", "Total 42"]


def turned(text: str, row: int, quarters: int) -> list[Word]:
    """Return the words of a line on a page of 600 x 600 pixels that is turned clockwise by quarters."""
    found: list[Word] = []
    for word in words(text, 50, 100 + 30 * row):
        left, top, right, bottom = word["box"]
        corners = [(left, top), (right, top), (right, bottom), (left, bottom)]
        for _ in range(quarters):
            corners = [(600 - y, x) for x, y in corners]
        columns, lines = zip(*corners, strict=True)
        box = [min(columns), min(lines), max(columns), max(lines)]
        found.append({"text": word["text"], "box": box})
        if quarters:
            found[-1]["polygon"] = [list(corner) for corner in corners]
    return found


@pytest.mark.parametrize("quarters", [0, 1, 2, 3])
def test_a_page_that_is_turned_is_read_along_its_text(quarters: int) -> None:
    layer = [word for row, text in enumerate(TURNED_LINES) for word in turned(text, row, quarters)]
    assert read_from_layer(page(words=layer), layer).text.text.split("\n") == TURNED_LINES
    mixed = read_from_picture(page(layer=layer), seen(line("pic", [50, 50, 90, 70])))
    assert [text for text in mixed.text.text.split("\n") if text != "pic"] == TURNED_LINES


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_a_turned_note_in_the_margin_leaves_the_order_of_an_upright_page(quarters: int) -> None:
    body = [word for row, text in enumerate(TURNED_LINES) for word in turned(text, row, 0)]
    note = turned("draft", 8, quarters)
    lines = read_from_layer(page(words=body + note), body + note).text.text.split("\n")
    assert [text for text in lines if text != "draft"] == TURNED_LINES


def test_a_picture_alone_is_read_from_it() -> None:
    read = read_from_picture(page(), seen(BODY))
    assert read.result()["text_source"] == "ocr"
    assert read.result()["regions"] == [BODY]
    assert [word["text"] for word in read.words] == ["INVOICE", "2024-117"]


def test_a_stamp_that_was_read_from_the_picture_too_counts_once_and_by_its_layer() -> None:
    misread = line("- l -", [278, 758, 340, 782], 0.6)
    read = read_from_picture(page(layer=STAMP), seen(BODY, misread))
    result = read.result()
    assert (result["text_source"], result["text"]) == ("mixed", "INVOICE 2024-117\n- 1 -")
    assert [region["text"] for region in result["regions"]] == ["INVOICE 2024-117", "- 1 -"]
    assert [word["text"] for word in read.words] == ["INVOICE", "2024-117", "-", "1", "-"]


def test_what_only_one_of_both_has_is_kept_where_it_stands() -> None:
    heading = words("Enclosed invoice", 50, 40)
    read = read_from_picture(page(layer=heading), seen(BODY))
    assert read.text.text == "Enclosed invoice\nINVOICE 2024-117"


def test_what_was_read_in_a_part_of_a_page_stands_at_its_place() -> None:
    heading = words("Enclosed invoice", 50, 40)
    lower: Page = {**page(layer=heading), "unread": [40, 300, 340, 500]}
    tilted = {**line("paid", [20, 60, 80, 90]), "polygon": [[20, 60], [80, 65], [80, 90], [20, 85]]}
    read = read_from_picture(lower, seen(line("Total 42", [10, 20, 110, 40]), tilted)).result()
    assert (read["text_source"], read["text"]) == ("mixed", "Enclosed invoice\nTotal 42\npaid")
    assert [region["box"] for region in read["regions"][1:]] == [[50, 320, 150, 340], [60, 360, 120, 390]]
    assert read["regions"][2]["polygon"] == [[60, 360], [120, 365], [120, 390], [60, 385]]


def test_a_picture_without_text_leaves_the_text_layer() -> None:
    layer = [*words("this is dan-", 50, 100), *words("gerous stuff", 50, 130)]
    with_photo: Page = {**page(layer=layer), "unread": [40, 90, 340, 500]}
    result = read_from_picture(with_photo, seen(line("this is", [10, 10, 80, 30]))).result()
    assert (result["text_source"], result["text"]) == ("text_layer", "this is dangerous\nstuff")
    assert "unread_pictures" not in result


def test_the_part_to_read_is_cut_from_an_image_of_the_whole_page() -> None:
    part: Page = {**page(layer=STAMP), "unread": [40, 300, 340, 500], "image": Image.new("RGB", (600, 800))}
    for _ in range(2):
        found = image_to_read(part)
        assert found is not None
        assert found.size == (300, 200)
        part = {**part, "image": found}
    assert image_to_read(page()) is None


def test_a_stamp_within_a_longer_line_that_was_read_counts_once() -> None:
    footer = line("Acme Ltd - 1 - Springfield", [40, 758, 560, 782])
    read = read_from_picture(page(layer=STAMP), seen(footer))
    assert read.text.text == "Acme Ltd - 1 - Springfield"


def test_a_transcript_gets_what_it_lacks_of_the_layer() -> None:
    read = transcribed(page(layer=STAMP), "INVOICE 2024-117", "stop")
    assert read.result()["text"] == "INVOICE 2024-117\n- 1 -"
    assert (read.result()["text_source"], read.result()["finish_reason"]) == ("mixed", "stop")
    assert transcribed(page(layer=STAMP), "INVOICE\n-  1 -", "stop").text.text == "INVOICE\n-  1 -"
    assert transcribed(page(), "INVOICE", "length").result()["text_source"] == "ocr"


def test_a_layer_without_its_pictures_says_that_they_are_unread() -> None:
    read = read_from_layer(page(layer=STAMP), STAMP)
    assert (read.result()["text"], read.result()["unread_pictures"]) == ("- 1 -", True)
    assert "unread_pictures" not in read_from_layer(page(words=STAMP), STAMP).result()


def test_lines_side_by_side_are_one_line_of_the_text() -> None:
    lines = [line("b", [80, 0, 130, 20]), line("c", [0, 30, 50, 50]), line("a", [0, 0, 50, 20])]
    arranged = PageText.arranged(lines, [one["box"] for one in lines])
    assert arranged.text == "a b\nc"
    assert [one["text"] for one in arranged.lines] == ["a", "b", "c"]
