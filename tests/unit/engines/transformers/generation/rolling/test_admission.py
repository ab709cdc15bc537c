"""Which waiting rows are taken: without a model, with running rows that only count."""

from __future__ import annotations

import math
import random
import time
from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from engines.transformers.generation.cache_sizes import Limits
from engines.transformers.generation.rolling.admission import Admission
from engines.transformers.generation.rolling.batches import RollingBatches
from engines.transformers.generation.rolling.room import Growth, Room, most_tokens
from engines.transformers.generation.token_sequence import TokenSequence


def row(prompt: int, budget: int, *, number: int = 0, priority: int = 5) -> TokenSequence:
    """Return a waiting row with a prompt of so many tokens."""
    return TokenSequence(
        prompt=[1] * prompt,
        tokenizer=cast(Any, None),
        ends=frozenset(),
        budget=budget,
        stop=(),
        picker=cast(Any, None),
        sort_key=((-priority, math.inf), number),
        requests=(),
    )


@dataclass
class Running:
    """Rows that grow by a token a step, without a model."""

    most_tokens: int
    max_rows: int = 4
    steps: int = 0
    waiting: list[TokenSequence] = field(default_factory=list)
    blocks: list[list[TokenSequence]] = field(default_factory=lambda: [[], []])
    joined: dict[TokenSequence, int] = field(default_factory=dict)
    """At which step each row has joined."""

    def __post_init__(self) -> None:
        self._admission = Admission(Limits(self.max_rows, 0, 100_000, padding_share=1.0))

    def room(self) -> Room:
        return Room(self.growths(), self.most_tokens)

    def growths(self) -> list[list[Growth]]:
        return [[Growth.of(one) for one in rows] for rows in self.blocks]

    def wait(self, *rows: TokenSequence) -> None:
        self.waiting += rows
        self.waiting.sort(key=lambda one: one.sort_key)

    def take(self) -> list[TokenSequence]:
        """Let rows join, as many as may."""
        taken: list[TokenSequence] = []
        while True:
            admitted, block = self._admission.take(self.waiting, cast(RollingBatches, self), 10**6, is_first=True)
            if not admitted:
                return taken
            self.blocks[block] += admitted
            taken += admitted
            self.joined.update(dict.fromkeys(admitted, self.steps))
            assert sum(most_tokens(rows) for rows in self.growths()) <= self.most_tokens
            assert sum(map(len, self.blocks)) <= self.max_rows

    def step(self) -> None:
        self.steps += 1
        for block in self.blocks:
            for one in block[:]:
                one.tokens.append(1)
                if len(one.tokens) == one.budget:
                    block.remove(one)

    def until_joined(self, one: TokenSequence, short: int) -> None:
        """Go on until `one` joins, while rows of so many steps keep coming."""
        while one not in self.joined:
            self.wait(row(3, short, number=1000 + self.steps))
            self.take()
            self.step()


def test_a_row_without_room_is_passed_freely_by_as_many_as_a_batch_has_rows() -> None:
    running = Running(100)
    long, large = row(3, 60), row(3, 80, number=1)
    running.wait(long, large, *(row(3, 3, number=2 + number) for number in range(10)))
    assert len(running.take()) == 4  # the long one, and three short ones
    assert (large.passed, large.room_by) == (3, None)


def blocked(*, priority: int) -> tuple[Running, TokenSequence]:
    """Return two running rows, and one that waits for the end of the shorter one after 90 steps."""
    running = Running(300, max_rows=8)
    large = row(60, 55, number=10, priority=priority)
    running.wait(row(3, 150, priority=9), row(3, 90, number=1, priority=9), large)
    assert [one.budget for one in running.take()] == [150, 90]
    return running, large


def test_then_it_is_passed_only_by_rows_that_end_before_it_has_room() -> None:
    running, large = blocked(priority=5)
    large.passed = 8
    running.wait(row(3, 95, number=11), row(3, 30, number=12))
    assert [one.budget for one in running.take()] == [30]
    assert large.room_by == 90
    running.until_joined(large, 95)
    assert running.steps <= 91


def test_rows_of_lower_priority_never_pass_freely() -> None:
    running, large = blocked(priority=7)
    running.wait(row(3, 95, number=11), row(3, 30, number=12))
    assert [one.budget for one in running.take()] == [30]
    assert (large.passed, large.room_by) == (1, 90)


def test_short_rows_go_on_passing_where_urgent_ones_have_taken_the_room() -> None:
    running, large = blocked(priority=5)
    large.passed, large.room_by = 8, 0
    running.steps = 10
    running.wait(row(3, 30, number=12))
    assert [one.budget for one in running.take()] == [30]
    assert large.room_by == 100


def test_a_row_of_its_priority_passes_freely_though_it_lasts_longer() -> None:
    running, large = blocked(priority=5)
    running.wait(row(3, 95, number=11))
    assert [one.budget for one in running.take()] == [95]
    assert (large.passed, large.room_by) == (1, None)


def test_more_urgent_rows_join_first() -> None:
    running = Running(1000, max_rows=1)
    running.wait(row(3, 5, number=1), row(3, 5, number=2, priority=9))
    assert [one.sort_key[1] for one in running.take()] == [2]


@pytest.mark.parametrize("short", [2, 10, 50, 100])
def test_a_large_row_is_not_passed_for_ever_by_rows_that_keep_coming(short: int) -> None:
    running = Running(300, max_rows=6)
    running.wait(row(3, 200))
    running.take()
    large = row(3, 250, number=1)
    running.wait(large)
    running.until_joined(large, short)
    assert running.steps <= 200 + short + 1
    assert len(running.joined) > 3  # others did not wait for it


@pytest.mark.parametrize("seed", range(40))
def test_every_row_joins_in_the_end_and_the_cache_keeps_its_bound(seed: int) -> None:
    chance = random.Random(seed)
    running = Running(chance.randint(100, 400), max_rows=chance.randint(1, 8))
    rows = [
        row(chance.randint(1, 40), chance.choice([1, 5, 20, 55]), number=number, priority=chance.choice([3, 5, 5, 5]))
        for number in range(60)
    ]
    for one in rows:
        if chance.random() < 0.5:
            running.step()
        running.wait(one)
        running.take()
    for _ in range(60 * 60):
        running.step()
        running.take()
    assert set(running.joined) == set(rows)


def test_cancelled_rows_are_left_out() -> None:
    running = Running(100)
    gone, there = row(3, 5), row(3, 5, number=1)
    gone.future.cancel()
    running.wait(gone, there)
    assert running.take() == [there]


def cost_of_waiting(count: int) -> float:
    """Return the seconds of a decision while so many rows wait, none of which is larger than another in all ways."""
    running = Running(10_000, max_rows=32)
    running.wait(row(100, 9000), *(row(100 + number, 9000 - number, number=1 + number) for number in range(count)))
    running.take()
    running.wait(*(row(20, 20, number=1000 + number) for number in range(20)))
    running.take()
    taken: list[float] = []
    for _ in range(10):
        began = time.perf_counter()
        assert running.take() == []
        taken.append(time.perf_counter() - began)
    return min(taken)


def test_a_decision_takes_time_in_proportion_to_the_rows_that_wait() -> None:
    assert cost_of_waiting(1200) < 60 * cost_of_waiting(60)
