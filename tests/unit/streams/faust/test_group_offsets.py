"""Offsets are committed by one request, as those of one log, one epoch and one generation; its codes are heeded."""

from __future__ import annotations

import asyncio
import types
from collections import Counter
from typing import Any

import pytest
from aiokafka import errors

from streams.delivery.port import Position, TopicPartition
from streams.faust import group_offsets
from streams.faust.assignment import Assignment, Reading
from streams.faust.positions import PartitionReader
from streams.kafka.aiokafka_internals import Coordination
from streams.settings import KafkaSettings
from tests.unit.streams.received_messages import TOPIC

OTHER_TOPIC = "inference.requests.ocr"
PARTITION, OTHER = (TOPIC, 0), (OTHER_TOPIC, 0)
PATIENCE_S = 60.0


class Coordinator:
    """Stands for aiokafka's: answers a commit with `codes`, and notes what it is told to do."""

    def __init__(self, codes: dict[str, int]) -> None:
        self.codes = codes
        self.generation, self.member_id, self.group_id = 1, "member", "group"
        self.told: list[str] = []
        self._closing: asyncio.Future[None] | None = None

    async def _send_req(self, request: Any) -> Any:
        topics = [(topic, [(0, code)]) for topic, code in self.codes.items()]
        return types.SimpleNamespace(topics=topics)

    def coordinator_dead(self) -> None:
        self.told.append("coordinator_dead")

    def reset_generation(self) -> None:
        self.told.append("reset_generation")

    def request_rejoin(self) -> None:
        self.told.append("request_rejoin")


async def commit(
    coordinator: Any, offsets: dict[TopicPartition, int], *, present: dict[TopicPartition, int] | None = None
) -> dict[TopicPartition, int]:
    """Commit into epochs of which those at `present` are not over."""
    epochs: dict[TopicPartition, int] = {PARTITION: 7, OTHER: 8}
    reader = PartitionReader(KafkaSettings(session_timeout_s=1, heartbeat_interval_s=0.1))
    reader.consumer = types.SimpleNamespace(_client=None, _coordinator=coordinator)
    readings = {place: Reading(epoch, 0, 0, "") for place, epoch in (present or epochs).items()}
    held: Any = types.SimpleNamespace(holds=True)
    reader._assignment = Assignment(1, 1, held, "group", iter([]), Counter(), lambda _: None, {}, readings)
    return await reader.commit({place: Position(offset, epochs[place]) for place, offset in offsets.items()})


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (errors.NotCoordinatorForGroupError, ["coordinator_dead"]),
        (errors.UnknownMemberIdError, ["reset_generation"]),
        (errors.IllegalGenerationError, ["reset_generation"]),
        (errors.RebalanceInProgressError, ["request_rejoin"]),
        (errors.GroupLoadInProgressError, []),
        (errors.UnknownTopicOrPartitionError, []),
    ],
)
async def test_a_commit_is_asked_once_and_what_its_codes_call_for_is_begun(
    error: type[errors.BrokerResponseError], told: list[str]
) -> None:
    coordinator = Coordinator({TOPIC: error.errno, OTHER_TOPIC: 0})
    assert await commit(coordinator, {PARTITION: 1, OTHER: 1}) == {PARTITION: error.errno, OTHER: 0}
    assert coordinator.told == told


async def test_an_offset_that_no_waiting_makes_good_is_an_error_that_names_its_partition() -> None:
    coordinator = Coordinator({TOPIC: errors.OffsetMetadataTooLargeError.errno})
    with pytest.raises(errors.OffsetMetadataTooLargeError, match=rf"{TOPIC}\[0\]"):
        await commit(coordinator, {PARTITION: 1})


async def test_a_coordinator_that_never_answers_holds_up_no_commit_for_a_session() -> None:
    class Frozen(Coordinator):
        async def _send_req(self, request: Any) -> Any:
            await asyncio.Future()

    async with asyncio.timeout(PATIENCE_S):
        answers = await commit(Frozen({}), {PARTITION: 1})
    assert answers == {PARTITION: errors.RequestTimedOutError.errno}


async def test_offsets_of_an_earlier_generation_are_not_sent_in_a_later_one() -> None:
    coordinator = Coordinator({})
    coordinator.generation = 2
    assert await commit(coordinator, {PARTITION: 1}) == {PARTITION: errors.IllegalGenerationError.errno}


ID = "988a8d3295a24a7fa07f60074869b7c5"


@pytest.mark.parametrize(
    ("kept", "topic_id", "note"),
    [
        (ID, ID, ""),
        (f"{ID}|crashes=1 by=a1 end=0", ID, "crashes=1 by=a1 end=0"),
        ("|crashes=1 by=a1 end=0", "", "crashes=1 by=a1 end=0"),
        (None, "", ""),
        ("", "", ""),
        ("node-7", "", ""),
        ("node|7", "", ""),
        (f"{ID} ", "", ""),
        ("a" * 4096, "", ""),
    ],
)
async def test_what_another_program_keeps_beside_an_offset_is_not_the_id_of_another_topic(
    kept: str | None, topic_id: str, note: str
) -> None:
    class Keeping(Coordinator):
        async def _send_req(self, request: Any) -> Any:
            return types.SimpleNamespace(API_VERSION=1, topics=[(TOPIC, [(0, 456, kept, 0)])])

        async def ensure_coordinator_known(self) -> None:
            pass

    coordinator = Keeping({})
    coordinator._closing = asyncio.get_running_loop().create_future()
    consumer: Any = types.SimpleNamespace(_client=None, _coordinator=coordinator)
    assert await group_offsets.committed(Coordination(consumer), [PARTITION]) == {PARTITION: (456, topic_id, note)}


async def test_offsets_of_a_log_that_was_replaced_are_neither_sent_nor_answered() -> None:
    coordinator = Coordinator({TOPIC: 0, OTHER_TOPIC: 0})
    sent = []
    send = coordinator._send_req

    async def note(request: Any) -> Any:
        sent.append(request)
        return await send(request)

    coordinator._send_req = note  # type: ignore[method-assign]
    answers = await commit(coordinator, {PARTITION: 456, OTHER: 1}, present={PARTITION: 9, OTHER: 8})
    assert answers == {OTHER: 0}
    [request] = sent
    assert [topic for topic, _ in request._topics] == [OTHER_TOPIC]
