"""Words of text layers as lines: side by side, in both directions, tilted, and broken at a line's end."""

from __future__ import annotations

import math
from typing import Any

import pytest

from engines.transformers.documents.text_lines import Line, lines_of, without_breaks
from handlers.decoding.document_pages import Word


def words(*texts: str, left: int = 0, top: int = 0) -> list[Word]:
    found: list[Word] = []
    for text in texts:
        found.append({"text": text, "box": [left, top, left + 10 * len(text), top + 20]})
        left += 10 * len(text) + 6
    return found


def test_words_that_follow_each_other_closely_are_a_line() -> None:
    lines = lines_of([*words("Hello", "World"), *words("next", top=30)])
    assert [(line.text, line.box) for line in lines] == [
        ("Hello World", [0, 0, 106, 20]),
        ("next", [0, 30, 40, 50]),
    ]


@pytest.mark.parametrize(("gap", "count"), [(39, 1), (41, 2)])
def test_words_far_apart_in_a_row_are_two_lines(gap: int, count: int) -> None:
    assert len(lines_of([*words("one"), *words("two", left=30 + gap)])) == count


def test_a_word_far_to_the_left_is_a_line_by_itself() -> None:
    assert [line.text for line in lines_of([*words("right", left=300), *words("left")])] == ["left", "right"]


def test_small_and_raised_letters_stay_in_their_line() -> None:
    raised: list[Word] = [{"text": "2", "box": [43, 0, 50, 12]}]
    assert [line.text for line in lines_of([*words("E=mc", top=0), *raised])] == ["E=mc 2"]


def texts(words: list[Word]) -> list[str]:
    return [line.text for line in lines_of(words)]


HEBREW = ["שלום", "עולם", "טוב"]


def leftwards(*texts: str, right: int = 400, top: int = 0) -> list[Word]:
    """Return words as they are read from right to left."""
    found: list[Word] = []
    for text in texts:
        found.append({"text": text, "box": [right - 10 * len(text), top, right, top + 20]})
        right -= 10 * len(text) + 6
    return found


def test_words_from_right_to_left_are_one_line_in_the_order_they_are_read() -> None:
    [line] = lines_of(leftwards(*HEBREW))
    assert line.text == " ".join(HEBREW)
    assert line.box == [278, 0, 400, 20]


@pytest.mark.parametrize(
    "words_in_file_order",
    [leftwards(*HEBREW), leftwards(*HEBREW)[::-1]],
    ids=["as read", "from left to right"],
)
def test_the_order_in_the_file_does_not_matter_within_a_line(words_in_file_order: list[Word]) -> None:
    assert texts(words_in_file_order) == [" ".join(HEBREW)]


def test_numbers_stand_in_lines_from_right_to_left_where_they_are_read() -> None:
    assert texts(leftwards("מחיר", "1234", "שקל")) == ["מחיר 1234 שקל"]


def test_latin_words_in_a_line_from_right_to_left_keep_their_own_order() -> None:
    words = [
        *leftwards("מתגורר", right=426),
        *words_at("New", "York", left=280),
        *leftwards("שם", "פה", right=274),
    ]
    assert texts(words) == ["מתגורר New York שם פה"]


def test_hebrew_words_in_a_line_from_left_to_right_keep_their_own_order() -> None:
    words = [
        *words_at("The", "word"),
        *leftwards("מחיר", "טוב", right=170),
        *words_at("means", left=176),
    ]
    assert texts(words) == ["The word מחיר טוב means"]


def words_at(*texts: str, left: int = 0) -> list[Word]:
    return words(*texts, left=left)


def turned(word: Word, degrees: float) -> Word:
    """Return a word turned clockwise around the page's top left."""
    left, top, right, bottom = word["box"]
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    corners = [(left, top), (right, top), (right, bottom), (left, bottom)]
    polygon = [[round(300 + x * cos - y * sin), round(300 + x * sin + y * cos)] for x, y in corners]
    columns, rows = zip(*polygon, strict=True)
    return {
        "text": word["text"],
        "box": [min(columns), min(rows), max(columns), max(rows)],
        "polygon": polygon,
    }


@pytest.mark.parametrize("degrees", [-90, -30, 5, 45, 90, 180])
def test_words_that_are_tilted_are_a_line_with_a_polygon(degrees: float) -> None:
    first, second = words("Hello", "World")
    [line] = lines_of([turned(first, degrees), turned(second, degrees)])
    assert line.text == "Hello World"
    assert line.polygon is not None
    expected = turned({"text": "", "box": [0, 0, 106, 20]}, degrees)
    assert [side for point in line.polygon for side in point] == pytest.approx(
        [side for point in expected["polygon"] for side in point], abs=3
    )
    assert line.box == pytest.approx(expected["box"], abs=3)


def test_a_tilted_stamp_is_no_part_of_the_line_that_it_lies_on() -> None:
    first, second = words("Hello", "World")
    stamp = turned({"text": "DRAFT", "box": [-20, -10, 60, 20]}, 45)
    assert sorted(texts([first, second, stamp])) == ["DRAFT", "Hello World"]


def test_a_level_line_has_no_polygon() -> None:
    assert lines_of(words("Hello"))[0].polygon is None


def rows(*texts: str, top: int = 0) -> list[list[Line]]:
    return [[line] for index, text in enumerate(texts) for line in lines_of(words(*text.split(), top=top + 30 * index))]


@pytest.mark.parametrize(
    ("lines", "joined"),
    [
        (["this is dan-", "gerous stuff"], ["this is dangerous", "stuff"]),
        (["this is dan\N{HYPHEN}", "gerous stuff"], ["this is dangerous", "stuff"]),
        (["this is dan\N{SOFT HYPHEN}", "gerous"], ["this is dangerous"]),
        (["the Anglo-", "Saxon king"], ["the Anglo-Saxon", "king"]),
        (["in 2024-", "117 years"], ["in 2024-", "117 years"]),
        (["a list -", "of things"], ["a list -", "of things"]),
        (["dan-", "gerous and haz-", "ardous"], ["dangerous", "and hazardous"]),
        (["in-", "com-", "plete"], ["incomplete"]),
        (["ends with dan-"], ["ends with dan-"]),
    ],
)
def test_words_broken_at_the_end_of_a_line_are_joined(lines: list[str], joined: list[str]) -> None:
    assert [line.text for row in without_breaks(rows(*lines)) for line in row] == joined


def test_a_joined_word_says_where_both_its_parts_stand() -> None:
    [[above], [below]] = without_breaks(rows("is dan-", "gerous stuff"))
    assert (above.box, above.goes_on_in) == ([0, 0, 66, 20], ([0, 30, 60, 50],))
    assert (below.text, below.goes_on_in) == ("stuff", ())


def test_cells_of_a_table_are_not_joined() -> None:
    row: list[Any] = [[*lines_of(words("pre-")), *lines_of(words("x", left=300))], *rows("tax", top=30)]
    assert [line.text for row in without_breaks(row) for line in row] == ["pre-", "x", "tax"]
