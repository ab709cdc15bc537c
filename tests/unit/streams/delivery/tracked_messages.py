"""A tracker that is given messages as fetches bring them."""

from __future__ import annotations

from typing import Any

from streams.delivery.offsets import OffsetTracker
from streams.delivery.port import Fetched, Position, Record
from tests.unit.streams.received_messages import TOPIC, Fetches, message, offsets_due

PLACE = (TOPIC, 0)


def received(count: int, *, first: int = 0, partition: int = 0) -> list[Record]:
    return [message(offset, partition=partition) for offset in range(first, first + count)]


class Acker(OffsetTracker):
    """An tracker that is given messages, each list as one fetch."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.fetches = Fetches()

    def take(self, messages: list[Record], **changes: Any) -> int:
        """Track what one fetch brought; what finds no room is never offered again."""
        return self.track(self.fetches.of(messages, **changes))

    def track(self, fetched: Fetched, start: int = 0, most: int = 1_000_000) -> int:
        if start == 0:
            self.enter(fetched)
        return super().track(fetched, start, most)

    def commit(self, offsets: dict[tuple[str, int], int] | None = None) -> None:
        epochs = {place: one.epoch for place, one in self._partitions.items()}
        due = offsets_due(self) if offsets is None else offsets
        self.committed({place: Position(offset, epochs[place]) for place, offset in due.items()})


def tracking(*messages: Record, window: int = 512) -> Acker:
    tracker = Acker(window=window)
    for one in messages:
        tracker.take([one])
    return tracker
