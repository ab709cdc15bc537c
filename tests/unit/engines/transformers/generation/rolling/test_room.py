"""The room that rows will need, against rows that grow and leave one step after the other."""

from __future__ import annotations

import random

import pytest

from engines.transformers.generation.rolling.batch import Growth, most_tokens


def widest_block(rows: list[Growth], ends: list[int]) -> int:
    """Return the most tokens, rows times columns, of a block in which each row stays for so many steps."""
    most = 0
    for step in range(max(ends) + 1):
        there = [row.columns + step for row, end in zip(rows, ends, strict=True) if end >= step]
        most = max(most, len(there) * max(there, default=0))
    return most


@pytest.mark.parametrize("seed", range(50))
def test_it_is_what_the_block_grows_to_and_never_less_where_rows_leave_early(seed: int) -> None:
    chance = random.Random(seed)
    rows = [Growth(chance.randint(1, 50), chance.randint(0, 50)) for _ in range(chance.randint(1, 8))]
    most = most_tokens(rows)
    assert most == widest_block(rows, [row.steps for row in rows])
    for _ in range(20):
        assert widest_block(rows, [chance.randint(0, row.steps) for row in rows]) <= most


def test_a_short_answer_costs_little_beside_a_long_one() -> None:
    assert most_tokens([Growth(10, 990), Growth(10, 5)]) == 1000
    assert most_tokens([Growth(990, 10), Growth(10, 5)]) == 2 * 995


def test_nothing_takes_no_room() -> None:
    assert most_tokens([]) == 0
