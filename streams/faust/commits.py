"""Commits asked once: aiokafka repeats a commit without end, also where a topic is gone.

docs/decisions/manual-in-order-acks.md says why.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from aiokafka import errors
from aiokafka.protocol.commit import OffsetCommitRequest
from faust.transport.drivers import aiokafka as driver
from faust.types import TP

from streams.delivery.committer import ASIDE, NO_MEMBER
from streams.delivery.offsets import TopicPartition
from streams.faust.positions import PartitionReader
from streams.repeated_lines import FAUST_LOG

_NO_COORDINATOR = frozenset(
    {
        errors.GroupCoordinatorNotAvailableError.errno,
        errors.NotCoordinatorForGroupError.errno,
        errors.RequestTimedOutError.errno,
    }
)


class CommittingThread(driver.AIOKafkaConsumerThread):
    """The consumer's thread, which commits without repeating itself."""

    logger = FAUST_LOG
    source: PartitionReader

    async def commit_once(
        self, offsets: Mapping[TopicPartition, int], epochs: Mapping[TopicPartition, int]
    ) -> dict[TopicPartition, int]:
        """Commit offsets of these epochs; return the broker's error code of each, 0 where it has the offset.

        Those of an epoch that is over are not committed, and not returned. One that cannot be asked has the code of
        a time-out. Runs in this thread.

        Raises:
            KafkaError: permanent; the broker refuses an offset for a reason that no waiting ends.
        """
        coordinator = self._ensure_consumer()._coordinator
        present = self.source.epochs(offsets.keys())
        offsets = {place: offset for place, offset in offsets.items() if present.get(place) == epochs[place]}
        if not offsets:
            return {}
        generation = self.source.member_generation
        if coordinator.generation != generation:
            return dict.fromkeys(offsets, errors.IllegalGenerationError.errno)
        by_topic = defaultdict(list)
        for (topic, number), offset in offsets.items():
            by_topic[topic].append((number, offset, self.source.note(topic)))
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
        return {place: answers.get(TP(*place), errors.RequestTimedOutError.errno) for place in offsets}


def _react(coordinator: Any, codes: set[int]) -> None:
    """Have the coordinator's client look for what the codes of a commit call for, as aiokafka's own commit does."""
    if codes & _NO_COORDINATOR:
        coordinator.coordinator_dead()
    if codes & NO_MEMBER:
        coordinator.reset_generation()
    elif errors.RebalanceInProgressError.errno in codes:
        coordinator.request_rejoin()


def _raise_if_permanent(tp: TP, code: int) -> None:
    error = errors.for_code(code)
    known = {0, errors.RebalanceInProgressError.errno, *ASIDE, *NO_MEMBER, *_NO_COORDINATOR}
    if code not in known and not error.retriable:
        raise error(f"the broker refuses the offset of {tp.topic}[{tp.partition}] with error {code}")
