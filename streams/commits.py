"""What of Faust's consumer decides which offsets are committed, when and for how long it is tried, made ours.

Faust loses messages that finish out of order; here only what `OrderedAcker` vouches for is committed. And aiokafka
repeats a commit without end, also where a topic is gone; here a commit is asked once, and each topic has its answer.
docs/decisions/manual-in-order-acks.md says why.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import structlog
from aiokafka import errors
from aiokafka.protocol.commit import OffsetCommitRequest
from faust.transport.drivers import aiokafka as driver
from faust.types import TP
from mode import Service

from streams.acks import OrderedAcker, Place
from streams.record_source import RecordSource

log = structlog.get_logger(__name__)

_NOT_COMMITTED_S = 0.05
_LONGEST_ASIDE_S = 60.0
_TOPIC_GONE = errors.UnknownTopicOrPartitionError.errno
_ASIDE = {
    _TOPIC_GONE: "the topic is gone; its answered requests have no place left to be counted in",
    errors.TopicAuthorizationFailedError.errno: "the right to read the topic was taken away; grant READ on it",
    errors.GroupAuthorizationFailedError.errno: "the right to read the group was taken away; grant READ on it",
}
"""Why a topic's commits are put aside and tried again later, while those of others go on."""
_NO_COORDINATOR = frozenset(
    {
        errors.GroupCoordinatorNotAvailableError.errno,
        errors.NotCoordinatorForGroupError.errno,
        errors.RequestTimedOutError.errno,
    }
)
_NO_MEMBER = frozenset({errors.UnknownMemberIdError.errno, errors.IllegalGenerationError.errno})


@dataclass(slots=True)
class _Aside:
    """When a topic's commits are tried again, and how long after the last time."""

    until: float
    pause_s: float


class CommittingConsumer(driver.Consumer):
    """Commits what the acker vouches for: at Faust's interval, and ahead of it where much is acked."""

    acker: OrderedAcker
    _thread: CommittingThread

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._aside: dict[str, _Aside] = {}
        self._lost_generation: int | None = None

    async def wait_empty(self) -> None:
        """Wait until everything in flight is answered, and commit it; at once where the consumer is stopping.

        What no coordinator takes within a session is left: by then others have the partitions.
        """
        await self.wait(self.acker.drained())
        await self.wait(self.commit_all(), timeout=self.app.conf.broker_session_timeout)

    async def commit_all(self) -> None:
        """Return once all that is answered is committed, as far as this worker can commit it at present."""
        while self._filter_committable_offsets(self._filter_tps_with_pending_acks()):
            if not await self.commit():
                await asyncio.sleep(_NOT_COMMITTED_S)

    @Service.task
    async def _commit_when_due(self) -> None:
        """Commit ahead of the interval where much is acked: the window has room only for what is committed."""
        while not self.should_stop:
            await self.wait(self.acker.commit_is_due.wait())
            if not self.flow_active:
                await self.wait(self.can_resume_flow.wait())
            elif not await self.commit():
                await self.sleep(_NOT_COMMITTED_S)  # another commit was under way, or a rebalance is

    async def _commit_offsets(self, offsets: Mapping[TP, int], start_new_transaction: bool = True) -> bool:
        """Commit these, and return whether the broker has them all.

        Faust draws a table for its log with every commit, a twentieth of a busy worker's time. And it notes an offset
        as committed even where the commit has failed, so that it is not committed until something newer is.
        """
        generation = self.app.consumer_generation_id
        epochs = self.acker.epochs()
        positions = self.acker.positions()  # asked for again: a log may have been replaced since
        offsets = {tp: positions[tp] for tp in offsets if tp in positions}
        # Not by Faust's `call_thread`: two calls are all it runs at once, and a commit may wait for its coordinator.
        asking = self._thread.commit_once(offsets, epochs)
        answers = await asyncio.wrap_future(
            asyncio.run_coroutine_threadsafe(asking, self._thread.thread_loop)
        )
        committed = {tp: offset for tp, offset in offsets.items() if answers.get(tp) == 0}
        self.app.monitor.on_tp_commit(committed)
        for tp in committed:
            self._aside.pop(tp.topic, None)
        gone = [(tp, offset) for tp, offset in offsets.items() if answers.get(tp) == _TOPIC_GONE]
        self.acker.committed(committed.items(), epochs)
        self.acker.discount(gone, epochs)
        self.acker.give_up(offsets.keys() - answers.keys(), epochs)
        for topic, code in {tp.topic: code for tp, code in answers.items() if code in _ASIDE}.items():
            self._put_aside(topic, _ASIDE[code])
        if _NO_MEMBER & set(answers.values()):
            self._lost_generation = generation
        return len(committed) == len(offsets)

    def _put_aside(self, topic: str, reason: str) -> None:
        before = self._aside.get(topic)
        pause_s = 1.0 if before is None else min(2 * before.pause_s, _LONGEST_ASIDE_S)
        self._aside[topic] = _Aside(time.monotonic() + pause_s, pause_s)
        log.warning("offsets_not_committed", topic=topic, reason=reason, next_try_s=pause_s)

    def _should_commit(self, tp: TP, offset: int) -> bool:
        """Return whether `offset`, which is news to the broker, may be told now: faults are told at growing intervals.

        It may be below the one before, where the log was replaced.
        """
        if self.app.consumer_generation_id == self._lost_generation or tp not in self.assignment():
            return False
        aside = self._aside.get(tp.topic)
        return aside is None or time.monotonic() >= aside.until

    def _filter_tps_with_pending_acks(self, topics: Any = None) -> Iterator[TP]:
        for place in self.acker.positions():
            if topics is None or place in topics or place[0] in topics:
                yield TP(*place)

    def _new_offset(self, tp: TP) -> int | None:
        return self.acker.positions().get(tp)


class CommittingThread(driver.AIOKafkaConsumerThread):
    """The consumer's thread, which commits without repeating itself."""

    source: RecordSource

    async def commit_once(self, offsets: Mapping[TP, int], epochs: Mapping[Place, int]) -> dict[TP, int]:
        """Commit offsets of these epochs; return the broker's error code of each, 0 where it has the offset.

        Those of an epoch that is over are not committed, and not returned. One that cannot be asked has the code of
        a time-out. Runs in this thread.

        Raises:
            KafkaError: permanent; the broker refuses an offset for a reason that no waiting ends.
        """
        coordinator = self._ensure_consumer()._coordinator
        present = self.source.epochs(offsets.keys())
        offsets = {tp: offset for tp, offset in offsets.items() if present.get(tp) == epochs[tp]}
        if not offsets:
            return {}
        generation = self.source.member_generation
        if coordinator.generation != generation:
            return dict.fromkeys(offsets, errors.IllegalGenerationError.errno)
        by_topic = defaultdict(list)
        for tp, offset in offsets.items():
            by_topic[tp.topic].append((tp.partition, offset, self.source.note(tp.topic)))
        request = OffsetCommitRequest(
            coordinator.group_id,
            generation,
            coordinator.member_id,
            OffsetCommitRequest.DEFAULT_RETENTION_TIME,
            list(by_topic.items()),
        )
        try:
            # Late enough for a slow broker, and early enough to look for another before the session ends.
            async with asyncio.timeout(self.app.conf.broker_session_timeout / 2):
                response = await coordinator._send_req(request)
        except (errors.KafkaError, TimeoutError):
            return dict.fromkeys(offsets, errors.RequestTimedOutError.errno)
        answers = {TP(topic, number): code for topic, parts in response.topics for number, code in parts}
        self.tp_last_committed_at.update(dict.fromkeys(answers, time.monotonic()))
        _react(coordinator, set(answers.values()))
        for tp, code in answers.items():
            _raise_if_permanent(tp, code)
        return {tp: answers.get(tp, errors.RequestTimedOutError.errno) for tp in offsets}


def _react(coordinator: Any, codes: set[int]) -> None:
    """Have the coordinator's client look for what the codes of a commit call for, as aiokafka's own commit does."""
    if codes & _NO_COORDINATOR:
        coordinator.coordinator_dead()
    if codes & _NO_MEMBER:
        coordinator.reset_generation()
    elif errors.RebalanceInProgressError.errno in codes:
        coordinator.request_rejoin()


def _raise_if_permanent(tp: TP, code: int) -> None:
    error = errors.for_code(code)
    known = {0, errors.RebalanceInProgressError.errno, *_ASIDE, *_NO_MEMBER, *_NO_COORDINATOR}
    if code not in known and not error.retriable:
        raise error(f"the broker refuses the offset of {tp.topic}[{tp.partition}] with error {code}")
