"""Columns, headings, rows of a table, forms: lines in the order in which people read them."""

from __future__ import annotations

import random

from engines.transformers.documents.reading_order import reading_order

LEFT, RIGHT = (50, 330), (370, 650)
"""Where two columns begin and end."""


def row(column: tuple[int, int], index: int, *, top: int = 100, width: int | None = None) -> list[int]:
    """Return the box of a line in a column, 20 high, 30 from the one above."""
    left, right = column
    return [left, top + 30 * index, right if width is None else left + width, top + 30 * index + 20]


def order(boxes: dict[str, list[int]]) -> list[list[str]]:
    """Return the names of `boxes` in reading order, which does not depend on the order they come in."""
    found = []
    for seed in range(3):
        names = sorted(boxes)
        random.Random(seed).shuffle(names)
        found.append(
            [
                [names[index] for index in line]
                for line in reading_order([boxes[name] for name in names], [""] * len(names))
            ]
        )
    assert found[0] == found[1] == found[2]
    return found[0]


def alone(*names: str) -> list[list[str]]:
    return [[name] for name in names]


def test_lines_go_down_the_page() -> None:
    assert order({name: row(LEFT, index) for index, name in enumerate("abcd")}) == alone("a", "b", "c", "d")


def test_columns_are_read_one_after_the_other_though_their_lines_are_level() -> None:
    boxes = {f"l{index}": row(LEFT, index) for index in range(5)}
    boxes |= {f"r{index}": row(RIGHT, index) for index in range(5)}
    assert order(boxes) == alone("l0", "l1", "l2", "l3", "l4", "r0", "r1", "r2", "r3", "r4")


def test_short_last_lines_do_not_hide_a_column() -> None:
    boxes = {f"l{index}": row(LEFT, index, width=60 if index % 3 == 2 else None) for index in range(6)}
    boxes |= {f"r{index}": row(RIGHT, index) for index in range(4)}
    assert order(boxes) == alone("l0", "l1", "l2", "l3", "l4", "l5", "r0", "r1", "r2", "r3")


def test_headings_across_the_columns_part_what_is_above_from_what_is_below() -> None:
    boxes = {"title": [200, 20, 500, 50], "middle": [60, 300, 640, 320], "foot": [320, 600, 380, 615]}
    for name, column in (("l", LEFT), ("r", RIGHT)):
        boxes |= {f"{name}a{index}": row(column, index) for index in range(3)}
        boxes |= {f"{name}b{index}": row(column, index, top=400) for index in range(3)}
    above = alone("la0", "la1", "la2", "ra0", "ra1", "ra2")
    below = alone("lb0", "lb1", "lb2", "rb0", "rb1", "rb2")
    assert order(boxes) == [["title"], *above, ["middle"], *below, ["foot"]]


def test_three_columns_are_read_from_left_to_right() -> None:
    columns = ((0, 200), (230, 430), (460, 660))
    boxes = {f"{number}{index}": row(column, index) for number, column in enumerate(columns) for index in range(3)}
    assert order(boxes) == alone("00", "01", "02", "10", "11", "12", "20", "21", "22")


def test_columns_under_columns_of_other_widths() -> None:
    boxes = {f"a{index}": row((0, 400), index) for index in range(3)}
    boxes |= {f"b{index}": row((440, 660), index) for index in range(3)}
    boxes["rule"] = [0, 220, 660, 240]
    boxes |= {f"c{index}": row((0, 200), index, top=300) for index in range(3)}
    boxes |= {f"d{index}": row((240, 660), index, top=300) for index in range(3)}
    assert order(boxes) == alone(*("a0", "a1", "a2", "b0", "b1", "b2"), "rule", *("c0", "c1", "c2", "d0", "d1", "d2"))


def test_a_form_is_read_row_by_row() -> None:
    boxes = {
        "number:": [50, 100, 140, 120],
        "INV-2024": [400, 101, 560, 121],
        "date:": [50, 130, 100, 150],
        "24 Nov": [400, 128, 500, 148],
    }
    assert order(boxes) == [["number:", "INV-2024"], ["date:", "24 Nov"]]


def test_a_table_is_read_row_by_row() -> None:
    boxes: dict[str, list[int]] = {}
    for index in range(4):
        boxes |= {f"item{index}": row((50, 300), index), f"price{index}": row((500, 560), index)}
    assert order(boxes) == [[f"item{index}", f"price{index}"] for index in range(4)]


def test_no_lines_have_no_order() -> None:
    assert reading_order([], []) == []
