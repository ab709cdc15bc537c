"""The room that rows will need in the cache, until they end."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from engines.transformers.generation.token_sequence import TokenSequence


class Growth(NamedTuple):
    """The cache columns of a row: `columns` now, and one more in each of at most `steps` steps."""

    columns: int
    steps: int

    @classmethod
    def of(cls, sequence: TokenSequence, steps_before: int = 0) -> Growth:
        """Return the growth of a row that joins after `steps_before` steps; 0 where it has joined."""
        tokens = len(sequence.tokens)
        return cls(len(sequence.prompt) + tokens, steps_before + sequence.budget - tokens)

    def after(self, steps: int) -> Growth:
        return Growth(self.columns + steps, self.steps - steps)

    def fits_where(self, other: Growth) -> bool:
        """Return whether it has room wherever `other` has."""
        return self.columns <= other.columns and self.steps <= other.steps


def most_tokens(rows: Iterable[Growth]) -> int:
    """Return the most tokens that a block of these rows will need. So a short answer beside a long one costs much only
    while it lasts, and the block is largest just before one of the rows leaves. Rows that leave early may make it
    smaller."""
    most = widest = 0
    for count, row in enumerate(sorted(rows, key=lambda row: row.steps, reverse=True), start=1):
        widest = max(widest, row.columns)
        most = max(most, count * (widest + row.steps))
    return most


class Room:
    """The rows of each block, and how many tokens of `most` they leave until they end."""

    def __init__(self, blocks: Iterable[Iterable[Growth]], most: int) -> None:
        self._blocks = [list(rows) for rows in blocks]
        self._most = most
        self._needs = [most_tokens(rows) for rows in self._blocks]

    @property
    def rows(self) -> int:
        """How many rows there are in all blocks."""
        return sum(map(len, self._blocks))

    def block_for(self, row: Growth) -> int | None:
        """Return the number of the block that `row` can join, so that all rows can stay until they end; None where
        there is none. A block is begun only where those in use have no room: each costs a run of the model a step.
        Where nothing runs there is always room."""
        if not self.rows:
            return 0
        need = row.columns + row.steps
        for block, rows in sorted(enumerate(self._blocks), key=lambda one: not one[1]):
            left = self._most - sum(self._needs) + self._needs[block]
            need_at_its_end = need * (1 + sum(one.steps >= row.steps for one in rows))
            # The first comparison is quick, and decides for most rows.
            if need_at_its_end <= left and most_tokens([*rows, row]) <= left:
                return block
        return None

    def join(self, block: int, row: Growth) -> None:
        """Add a row to a block."""
        self._blocks[block].append(row)
        self._needs[block] = most_tokens(self._blocks[block])

    def steps_until(self, row: Growth) -> int:
        """Return after how many steps `row` can join at the latest, if no other row joins before."""
        for steps in sorted({one.steps for rows in self._blocks for one in rows}):
            left = ([one.after(steps) for one in rows if one.steps > steps] for rows in self._blocks)
            if Room(left, self._most).block_for(row) is not None:
                return steps
        return 0
