"""Acknowledges messages in offset order, however out of order their work finishes."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol


class Message(Protocol):
    """The part of Faust's message that identifies it."""

    @property
    def topic(self) -> str: ...
    @property
    def partition(self) -> int: ...
    @property
    def offset(self) -> int: ...
    @property
    def generation_id(self) -> int | None: ...


class Event(Protocol):
    """The part of Faust's event that the acker needs."""

    @property
    def message(self) -> Message: ...

    def ack(self) -> object: ...


@dataclass(slots=True)
class _Entry:
    event: Event
    since: float
    done: bool = False


@dataclass(slots=True)
class OrderedAcker:
    """Acks the contiguous finished prefix of each partition, so a commit never passes unfinished work.

    Owned by the event loop thread. Every tracked event must be marked done exactly once, after its result or
    dead letter is on the broker. Events of an earlier generation of the consumer group form a prefix of their
    own: finishing them never acks an offset that was handed out again.
    """

    clock: Callable[[], float] = time.monotonic
    _partitions: dict[tuple[str, int, int | None], OrderedDict[int, _Entry]] = field(default_factory=dict)

    def track(self, event: Event) -> None:
        """Remember that `event` is in flight; call in the order of offsets, as the stream delivers them."""
        message = event.message
        entries = self._partitions.setdefault(
            (message.topic, message.partition, message.generation_id), OrderedDict()
        )
        entries[message.offset] = _Entry(event, self.clock())

    def done(self, event: Event) -> int:
        """Mark `event` finished, ack what is now contiguous, and return how many events that acked.

        Raises:
            KeyError: the event is not in flight: a fault of the caller.
        """
        message = event.message
        key = (message.topic, message.partition, message.generation_id)
        entries = self._partitions[key]
        entries[message.offset].done = True
        acked = 0
        while entries:
            first = next(iter(entries.values()))
            if not first.done:
                return acked
            entries.popitem(last=False)
            first.event.ack()
            acked += 1
        del self._partitions[key]
        return acked

    @property
    def in_flight(self) -> int:
        """How many tracked events are not acked yet, finished ones behind an unfinished one included."""
        return sum(len(entries) for entries in self._partitions.values())

    def oldest_age_s(self) -> float:
        """Return the seconds since the oldest unacked event arrived; 0 when nothing is in flight."""
        firsts = [next(iter(entries.values())).since for entries in self._partitions.values()]
        return self.clock() - min(firsts) if firsts else 0.0
