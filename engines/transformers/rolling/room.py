"""How much of the cache rows will come to need together, as they grow and leave."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from engines.transformers.row import Row


@dataclass(frozen=True, slots=True)
class Growth:
    """What a row takes of the cache's block: `columns` now, and one more in each of so many `steps`, at most."""

    columns: int
    steps: int

    @classmethod
    def of(cls, row: Row, steps_before: int = 0) -> Growth:
        """Return the growth of a row that joins after `steps_before` steps of the others; 0 where it has joined."""
        return cls(len(row.seen), steps_before + row.budget - len(row.tokens))


def most_tokens(rows: Iterable[Growth]) -> int:
    """Return the most tokens that the block will have to have room for, if no other row joins.

    The block is as wide as its longest row, for each of its rows. So a short answer beside a long one costs much
    only as long as it lasts: the most is needed just before one of the rows leaves. Rows that leave earlier than
    they may make it less.
    """
    most = widest = 0
    for count, row in enumerate(sorted(rows, key=lambda row: row.steps, reverse=True), start=1):
        widest = max(widest, row.columns)
        most = max(most, count * (widest + row.steps))
    return most
