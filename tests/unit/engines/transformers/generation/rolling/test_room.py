"""The room that rows will need, against rows that grow and leave one step after the other."""

from __future__ import annotations

import random

import pytest

from engines.transformers.generation.rolling.room import Growth, Room, most_tokens


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


def test_a_row_joins_the_block_in_use_and_another_only_where_that_has_no_room() -> None:
    long, short = Growth(600, 300), Growth(10, 20)
    assert Room([[], []], 1000).block_for(long) == 0
    assert Room([[Growth(10, 890)], []], 1000).block_for(short) == 0
    assert Room([[long], []], 1000).block_for(short) == 1
    assert Room([[long], [short, short]], 1000).block_for(short) == 1
    assert Room([[long], [short, short, short]], 1000).block_for(short) is None
    assert Room([[], [short]], 1000).block_for(short) == 1
    assert Room([[], [long]], 1000).block_for(short) == 0


def test_where_nothing_runs_there_is_room_for_any_row() -> None:
    assert Room([[], []], 1000).block_for(Growth(10, 5000)) == 0


@pytest.mark.parametrize("seed", range(50))
def test_a_row_has_room_after_the_steps_that_are_told_and_at_no_end_before(seed: int) -> None:
    chance = random.Random(seed)
    most, blocks = 400, [[], []]  # type: tuple[int, list[list[Growth]]]
    for _ in range(12):
        row = Growth(chance.randint(1, 60), chance.randint(1, 60))
        if (block := Room(blocks, most).block_for(row)) is not None:
            blocks[block].append(row)
    waiting = Growth(chance.randint(1, 150), chance.randint(50, 150))
    told = Room(blocks, most).steps_until(waiting)
    for steps in sorted({one.steps for rows in blocks for one in rows if one.steps <= told}):
        left = [[one.after(steps) for one in rows if one.steps > steps] for rows in blocks]
        assert (Room(left, most).block_for(waiting) is not None) == (steps == told)
