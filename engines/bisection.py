"""Runs a batch so that what fails in it fails by itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def bisected(
    run: Callable[[Sequence[T]], list[R]],
    items: Sequence[T],
    *,
    failed: Callable[[Sequence[T], BaseException], R],
) -> list[R]:
    """Return `run(items)`, or what comes of running the halves where that raises, down to single items.

    One bad item among n costs its neighbours 2 log2(n) more runs. `failed` hears of every batch that raised,
    before its halves run, and says what takes the place of the outcome of one that raises by itself. Whatever is
    raised counts, a BaseException too; what `failed` raises ends it all.
    """
    try:
        return run(items)
    except BaseException as error:  # noqa: BLE001 - it is told by `failed`
        outcome = failed(items, error)
    # The exception is gone by now, and with it the frames that hold what the failed run had in memory.
    if len(items) == 1:
        return [outcome]
    middle = len(items) // 2
    return [
        *bisected(run, items[:middle], failed=failed),
        *bisected(run, items[middle:], failed=failed),
    ]
