"""Reads the offsets of an assignment in one request, and commits with one request.

aiokafka reads one partition after the other and treats a coordinator that cannot answer as one without offsets. It
repeats a commit without end, even where a topic is gone. docs/decisions/manual-in-order-acks.md says more.
"""

from __future__ import annotations

import asyncio
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from aiokafka import errors
from aiokafka.protocol.commit import OffsetCommitRequest, OffsetFetchRequest

from streams.delivery.committer import ASIDE, NO_MEMBER
from streams.delivery.port import TopicPartition
from streams.kafka.aiokafka_internals import ConsumerClosing, Coordination

_RETRY_S = 0.1
_NOTE = "|"
"""Separates a topic's id from a note in the metadata of a committed offset."""
_KEPT = re.compile(rf"([0-9a-f]{{32}})?(?:\{_NOTE}(.*))?", re.DOTALL)
"""Matches metadata committed here. What other programs write there must not be read as the id of a topic."""
_TIMED_OUT = errors.RequestTimedOutError.errno
_COORDINATOR_MOVED = (errors.NotCoordinatorForGroupError, errors.GroupCoordinatorNotAvailableError)
_NO_COORDINATOR = frozenset({*(error.errno for error in _COORDINATOR_MOVED), _TIMED_OUT})
_REBALANCING = errors.RebalanceInProgressError.errno
_EXPECTED = frozenset({0, _REBALANCING, *ASIDE, *NO_MEMBER, *_NO_COORDINATOR})
"""Codes of a commit after which the worker goes on, besides those that aiokafka knows as retriable."""


async def committed(
    coordination: Coordination, partitions: Iterable[TopicPartition]
) -> dict[TopicPartition, tuple[int, str, str]]:
    """Return the committed offsets of these partitions, each with the topic's id and the note from its metadata.

    Partitions without an offset are left out. Asks again for as long as the coordinator cannot answer.

    Raises:
        KafkaError: permanent; the group may not be read.
        ConsumerClosing: the consumer is being stopped.
    """
    coordinator = coordination.coordinator
    by_topic = defaultdict(list)
    for topic, number in partitions:
        by_topic[topic].append(number)
    request = OffsetFetchRequest(coordinator.group_id, list(by_topic.items()))
    while not coordination.closing.done():
        await coordinator.ensure_coordinator_known()
        try:
            return _offsets(await coordination.ask(request))
        except errors.KafkaError as error:
            if isinstance(error, _COORDINATOR_MOVED):
                coordinator.coordinator_dead()
            elif not error.retriable:
                raise
        await asyncio.wait([coordination.closing], timeout=_RETRY_S)
    raise ConsumerClosing


async def commit(
    coordination: Coordination,
    generation: int,
    offsets: Mapping[TopicPartition, tuple[int, str, str]],
    *,
    timeout_s: float,
) -> dict[TopicPartition, int]:
    """Commit offsets, each with its topic's id and a note, as a member of `generation`; return the broker's codes.

    0 means committed. Where the coordinator cannot be reached, the code is that of a time-out.

    Raises:
        KafkaError: permanent; the broker refuses an offset, and retrying cannot help.
    """
    coordinator = coordination.coordinator
    if coordinator.generation != generation:  # -1 where the group has removed this member
        return dict.fromkeys(offsets, errors.IllegalGenerationError.errno)
    by_topic = defaultdict(list)
    for (topic, number), (offset, topic_id, note) in offsets.items():
        by_topic[topic].append((number, offset, f"{topic_id}{_NOTE}{note}" if note else topic_id))
    request = OffsetCommitRequest(
        coordinator.group_id,
        generation,
        coordinator.member_id,
        OffsetCommitRequest.DEFAULT_RETENTION_TIME,
        list(by_topic.items()),
    )
    try:
        async with asyncio.timeout(timeout_s):
            response = await coordination.ask(request)
    except (errors.KafkaError, TimeoutError):
        return dict.fromkeys(offsets, _TIMED_OUT)
    answers = {(topic, number): code for topic, parts in response.topics for number, code in parts}
    codes = set(answers.values())
    # As aiokafka's own commit does.
    if codes & _NO_COORDINATOR:
        coordinator.coordinator_dead()
    if codes & NO_MEMBER:
        coordinator.reset_generation()
    elif _REBALANCING in codes:
        coordinator.request_rejoin()
    for (topic, number), code in answers.items():
        error = errors.for_code(code)
        if code not in _EXPECTED and not error.retriable:
            raise error(f"the broker refuses the offset of {topic}[{number}] with error {code}")
    return {place: answers.get(place, _TIMED_OUT) for place in offsets}


def _offsets(response: Any) -> dict[TopicPartition, tuple[int, str, str]]:
    """Return the offsets of an answer.

    Raises:
        KafkaError: the coordinator cannot answer now, or refuses.
    """
    if response.API_VERSION >= 2:
        _check(response.error_code)
    offsets = {}
    for topic, partitions in response.topics:
        for number, offset, kept, error_code in partitions:
            if errors.for_code(error_code) is errors.UnknownTopicOrPartitionError:
                continue
            _check(error_code)
            if offset >= 0:
                own = _KEPT.fullmatch(kept or "")
                topic_id, note = own.groups("") if own else ("", "")
                offsets[(topic, number)] = (offset, topic_id, note)
    return offsets


def _check(error_code: int) -> None:
    error = errors.for_code(error_code)
    if error is not errors.NoError:
        raise error()
