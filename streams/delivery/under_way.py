"""Keeps the requests that run here, and ends or continues them when partitions are reassigned."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Protocol

from handlers.logger import get_logger
from streams.delivery.offsets import OffsetTracker
from streams.delivery.port import Fetched, Record, TopicPartition

log = get_logger(__name__)


class Work(Protocol):
    """The work on one request, until its result is handed over."""

    def give_up(self) -> bool:
        """Stop it, unless an engine has begun; return whether it was stopped, so that no result will come."""

    def cancel(self) -> bool:
        """Stop it, also where an engine has begun; return whether it was stopped, so that no result will come."""


class _Always:
    def __init__(self, can_be_stopped: bool) -> None:
        self.give_up = self.cancel = lambda: can_be_stopped


NOT_STARTED: Work = _Always(True)
"""Stands for the work on a request that this worker leaves to others."""
PUBLISHING: Work = _Always(False)
"""Stands for the work on a request whose outcome is on its way to the broker."""


class UnderWay:
    """Requests from their start to their ack. Lives on the event loop.

    After a rebalance, a request whose record is fetched again here goes on: its outcome acks the record that was
    fetched last. Cancelled are requests of partitions that went to others, requests that others have answered and
    committed meanwhile, and those of a topic that was made again. An outcome that is being published stays.
    """

    def __init__(self, tracker: OffsetTracker) -> None:
        self._tracker = tracker
        self._works: dict[Record, Work] = {}
        self._of_before: dict[tuple[str, int, int], Record] = {}
        """Requests that were started before the last rebalance, by topic, partition and offset."""

    def add(self, message: Record, work: Work) -> None:
        """Note the work on a tracked record, in place of what was noted before."""
        self._works[_fetched_last(message)] = work

    def end(self, message: Record) -> None:
        """Ack a record: its outcome is published."""
        message = _fetched_last(message)
        self._works.pop(message, None)
        self._tracker.done(message)

    def give_back(self) -> None:
        """Leave to the next owner what no engine has begun with: it is neither answered nor acked.

        A record before one that is done or begun is kept: else the later one would be answered again.
        """

        def give_up(message: Record) -> bool:
            if message not in self._works or not self._works[message].give_up():
                return False
            del self._works[message]
            return True

        self._tracker.give_back(give_up)

    def begin(self, assigned: Collection[TopicPartition]) -> None:
        """Begin a generation with these partitions."""
        self._tracker.forget_all()
        places = frozenset(assigned)
        self._leave([one for one in self._works if (one.topic, one.partition) not in places])
        self._of_before = {(one.topic, one.partition, one.offset): one for one in self._works}

    def enter(self, fetched: Fetched) -> None:
        """Begin with a fetch; call it instead of `OffsetTracker.enter`.

        Raises:
            PositionLost: as `OffsetTracker.enter`.
        """
        self._tracker.enter(fetched)
        if fetched.begins:
            place, of_before = fetched.place, set(self._of_before.values())
            here = [one for one in self._works if (one.topic, one.partition) == place]
            self._leave([one for one in here if one.offset < fetched.start or one not in of_before])

    def goes_on(self, message: Record) -> bool:
        """Return whether the request of a tracked record still runs from an earlier fetch: it must not start."""
        before = self._of_before.pop((message.topic, message.partition, message.offset), None)
        if before is None or before not in self._works:
            return False
        if before.digest != message.digest:
            self._leave([before])
            return False
        before.fetched_again = message
        self._works[message] = self._works.pop(before)
        self._tracker.drop(before)
        return True

    def _leave(self, messages: Iterable[Record]) -> None:
        left = [one for one in messages if self._works[one].cancel()]
        for one in left:
            del self._works[one]
            self._tracker.drop(one)
        if left:
            log.info("requests_left_to_others", requests=len(left))


def _fetched_last(message: Record) -> Record:
    while message.fetched_again is not None:
        message = message.fetched_again
    return message
