"""Messages as the consumer hands them over."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from streams.delivery.crash_guard import CrashGuard
from streams.delivery.offsets import OffsetTracker
from streams.delivery.port import Fetched, Record, TopicPartition

TOPIC = "inference.requests.asr"


def message(offset: int, value: bytes | None = None, **changes: Any) -> Record:
    """Return a message of the first partition of `TOPIC`, but for `changes`."""
    fields: dict[str, Any] = {
        "topic": TOPIC,
        "partition": 0,
        "timestamp": 0,
        "key": None,
        "headers": (),
    }
    return Record(offset=offset, value=value, **(fields | changes))


def offsets_due(tracker: OffsetTracker) -> dict[TopicPartition, int]:
    """Return the offset of each partition that is to be committed."""
    return {place: position.offset for place, position in tracker.positions().items()}


def track(tracker: OffsetTracker, fetched: Fetched) -> int:
    """Track all of a fetch that there is room for."""
    tracker.enter(fetched)
    return tracker.track(fetched, 0, len(fetched.records))


class NoGuard(CrashGuard):
    """Lets all begin without a note."""

    def __init__(self, tracker: OffsetTracker) -> None:
        super().__init__(tracker, max_crashes=3, window=512)

    def room(self, fetched: Fetched, start: int) -> int:
        return len(fetched.records) - start


class Fetches:
    """Makes of messages what one fetch after the other brings of their partition."""

    def __init__(self) -> None:
        self._ends: dict[tuple[TopicPartition, int], int] = {}

    def of(
        self,
        messages: Sequence[Record],
        *,
        partition: int = 0,
        generation: int = 1,
        epoch: int | None = None,
        end: int | None = None,
        committed: int | None = None,
    ) -> Fetched:
        """Return what follows the fetch before of the same partition and epoch, up to `end`."""
        topic = TOPIC
        if messages:
            topic, partition = messages[0].topic, messages[0].partition
        epoch = generation if epoch is None else epoch
        key = ((topic, partition), epoch)
        start = self._ends.get(key, messages[0].offset if messages else 0)
        if end is None:
            end = messages[-1].offset + 1 if messages else start
        begins = key not in self._ends
        self._ends[key] = end
        return Fetched(topic, partition, generation, epoch, start, end, messages, begins, committed)
