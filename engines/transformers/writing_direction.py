"""Which way texts are written, and the order in which texts that lie side by side are read.

Source: https://unicode.org/reports/tr9/ (the bidirectional algorithm), for whole words instead of letters.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence

_TO_THE_LEFT = frozenset({"R", "AL"})


def runs_to_the_left(texts: Iterable[str]) -> bool:
    """Tell whether most letters of `texts` are of a script that is written from right to left."""
    kinds = [unicodedata.bidirectional(letter) for text in texts for letter in text]
    return sum(kind in _TO_THE_LEFT for kind in kinds) > kinds.count("L")


def as_read(texts: Sequence[str]) -> list[int]:
    """Return the indices of `texts`, which lie side by side from left to right, in the order they are read.

    Most of their letters say where to begin; what is written the other way is read the other way within, with
    the numbers that stand between.
    """
    starts_right = runs_to_the_left(texts)
    order = list(range(len(texts)))
    if starts_right:
        order.reverse()
    against = [_direction(texts[index]) == ("L" if starts_right else "R") for index in order]
    neutral = [not _direction(texts[index]) for index in order]
    first = 0
    while first < len(order):
        if not against[first]:
            first += 1
            continue
        end = last = first
        while end < len(order) and (against[end] or neutral[end]):
            last = end if against[end] else last
            end += 1
        order[first : last + 1] = order[first : last + 1][::-1]
        first = last + 1
    return order


def _direction(text: str) -> str:
    """Return R or L for the direction of a text's first letter, "" for numbers and signs."""
    for letter in text:
        kind = unicodedata.bidirectional(letter)
        if kind == "L":
            return "L"
        if kind in _TO_THE_LEFT:
            return "R"
    return ""
