"""The outbox: what goes together, what goes where, and who hears that it did not arrive."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest
import structlog
from aiokafka.errors import (
    KafkaError,
    KafkaTimeoutError,
    MessageSizeTooLargeError,
    NodeNotReadyError,
    TopicAuthorizationFailedError,
    UnknownTopicOrPartitionError,
)
from aiokafka.partitioner import DefaultPartitioner
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.record.default_records import DefaultRecordBatch

from streams.delivery.port import DeliveryReport, ProducerRecord
from streams.delivery.producer import BatchingProducer
from streams.faust.port import ProducerSink
from streams.kafka import connection
from streams.kafka.aiokafka_internals import fill

Sent = tuple[str, int, list[bytes | None]]


class Producer:
    """Builds real batches and reads them back; holds them while `gate` is closed."""

    def __init__(self, *, partitions: int = 1, batch_bytes: int = 16_384) -> None:
        self.partitions = set(range(partitions))
        self.batch_bytes = batch_bytes
        self.sent: list[Sent] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.gates: dict[str, asyncio.Event] = {}
        self.refuse: Callable[[Sent], Exception | None] = lambda sent: None
        self.client: SimpleNamespace

    def hold(self, topic: str) -> asyncio.Event:
        """Hold the batches of one topic until what is returned is set."""
        return self.gates.setdefault(topic, asyncio.Event())

    async def partitions_for(self, topic: str) -> set[int]:
        return self.partitions

    def create_batch(self) -> BatchBuilder:
        return BatchBuilder(self.batch_bytes, 0)

    async def send_batch(self, batch: Any, topic: str, *, partition: int) -> asyncio.Future[None]:
        values = [record.value for record in DefaultRecordBatch(bytes(batch._build()))]
        await self.gates.get(topic, self.gate).wait()
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        error = self.refuse((topic, partition, values))
        if error is None:
            self.sent.append((topic, partition, values))
            future.set_result(None)
        else:
            future.set_exception(error)
        return future


def outgoing(value: bytes, *, topic: str = "t", key: bytes | None = None) -> ProducerRecord:
    return ProducerRecord(topic, key, value, [("a", b"1")])


class Heard(DeliveryReport):
    """Notes how the delivery ended."""

    outcomes: list[Exception | None] = msgspec.field(default_factory=list)

    def ended(self, error: Exception | None) -> None:
        self.outcomes.append(error)


async def settled() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


def outbox(producer: Producer) -> BatchingProducer:
    return BatchingProducer(ProducerSink(lambda: producer))


async def test_a_lone_record_leaves_at_once() -> None:
    producer = Producer()
    await outbox(producer).deliver(outgoing(b"1"))
    assert producer.sent == [("t", 0, [b"1"])]


async def test_records_of_one_moment_share_a_batch_and_topics_do_not_wait_for_each_other() -> None:
    producer = Producer()
    box = outbox(producer)
    await asyncio.gather(*(box.deliver(outgoing(b"%d" % n), outgoing(b"e", topic="events")) for n in range(3)))
    assert sorted(producer.sent) == [("events", 0, [b"e"] * 3), ("t", 0, [b"0", b"1", b"2"])]


async def test_what_comes_while_a_batch_is_on_its_way_is_the_next_batch() -> None:
    producer = Producer()
    producer.gate.clear()
    box = outbox(producer)
    first = asyncio.create_task(box.deliver(outgoing(b"0")))
    for _ in range(10):
        await asyncio.sleep(0)
    rest = [asyncio.create_task(box.deliver(outgoing(b"%d" % n))) for n in (1, 2, 3)]
    for _ in range(10):
        await asyncio.sleep(0)
    assert not first.done()
    producer.gate.set()
    await asyncio.gather(first, *rest)
    assert producer.sent == [("t", 0, [b"0"]), ("t", 0, [b"1", b"2", b"3"])]


async def test_what_does_not_fit_one_batch_goes_in_several_in_order() -> None:
    producer = Producer(batch_bytes=1000)
    box = outbox(producer)
    values = [bytes([65 + n]) * 400 for n in range(5)]
    await asyncio.gather(*(box.deliver(outgoing(value)) for value in values))
    assert [value for _, _, batch in producer.sent for value in batch] == values
    assert len(producer.sent) > 1


def test_a_batch_is_what_aiokafka_would_make_of_the_records_one_by_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("time.time", lambda: 1_700_000_000.25)
    records = [ProducerRecord("t", b"k", b"v%d" % n, [("a", b"1"), ("b", b"")]) for n in range(300)]
    ours, theirs = BatchBuilder(4096, 0), BatchBuilder(4096, 0)
    taken = fill(ours, records)
    for record in records:
        theirs.append(timestamp=1_700_000_000_250, key=record.key, value=record.value, headers=record.headers)
    assert taken == ours.record_count() == theirs.record_count() < len(records)
    assert bytes(ours._build()) == bytes(theirs._build())


async def test_a_key_decides_the_partition_as_kafkas_default_partitioner_does() -> None:
    producer = Producer(partitions=7)
    box = outbox(producer)
    keys = [b"key-%d" % n for n in range(20)]
    await asyncio.gather(*(box.deliver(outgoing(key, key=key)) for key in keys))
    found = {value: partition for _, partition, batch in producer.sent for value in batch}
    place = DefaultPartitioner()
    assert found == {key: place(key, list(range(7)), list(range(7))) for key in keys}


async def test_records_without_a_key_go_to_one_partition_together() -> None:
    producer = Producer(partitions=50)
    box = outbox(producer)
    await asyncio.gather(*(box.deliver(outgoing(b"%d" % n)) for n in range(20)))
    assert len(producer.sent) == 1


async def test_a_refused_batch_is_told_to_everyone_who_waits_for_it_and_to_nobody_else() -> None:
    producer = Producer()
    producer.refuse = lambda sent: TopicAuthorizationFailedError() if sent[0] == "t" else None
    box = outbox(producer)
    outcomes = await asyncio.gather(
        box.deliver(outgoing(b"1")),
        box.deliver(outgoing(b"2")),
        box.deliver(outgoing(b"3", topic="u")),
        return_exceptions=True,
    )
    assert [type(outcome) for outcome in outcomes] == [
        TopicAuthorizationFailedError,
        TopicAuthorizationFailedError,
        type(None),
    ]


async def test_one_record_too_large_for_the_broker_costs_its_neighbours_nothing() -> None:
    producer = Producer()
    producer.refuse = lambda sent: MessageSizeTooLargeError() if b"huge" in sent[2] else None
    box = outbox(producer)
    outcomes = await asyncio.gather(
        *(box.deliver(outgoing(value)) for value in (b"1", b"huge", b"2")), return_exceptions=True
    )
    assert [type(outcome) for outcome in outcomes] == [type(None), MessageSizeTooLargeError, type(None)]
    assert sorted(value for _, _, batch in producer.sent for value in batch if value) == [b"1", b"2"]


async def test_a_delivery_ends_once_nothing_of_it_is_on_its_way_and_knows_what_was_refused() -> None:
    producer, heard = Producer(), Heard()
    producer.refuse = lambda sent: TopicAuthorizationFailedError() if sent[0] == "t" else None
    refused, other = outgoing(b"1"), outgoing(b"2", topic="u")
    slow = producer.hold("u")
    outbox(producer).post([refused, other], heard)
    await settled()
    assert heard.outcomes == []
    slow.set()
    await settled()
    assert [type(outcome) for outcome in heard.outcomes] == [TopicAuthorizationFailedError]
    assert heard.refused == (refused,)


async def test_of_a_batch_the_first_delivery_ends_last_so_that_acks_in_order_come_in_one_go() -> None:
    ended: list[int] = []

    class Numbered(DeliveryReport, kw_only=True):
        number: int

        def ended(self, error: Exception | None) -> None:
            assert error is None
            ended.append(self.number)

    box = outbox(Producer())
    for number in range(3):
        box.post([outgoing(b"%d" % number)], Numbered(number=number))
    await settled()
    assert ended == [2, 1, 0]


async def test_a_record_that_cannot_be_written_is_told_and_what_arrived_beside_it_counts_as_arrived() -> None:
    producer = Producer(partitions=8)
    box, gate = outbox(producer), producer.hold("t")
    delivering = asyncio.gather(
        *(box.deliver(outgoing(b"%d" % n, key=b"%d" % n)) for n in range(8)),
        box.deliver(ProducerRecord("t", b"k", cast(bytes, "no bytes"), [])),
        return_exceptions=True,
    )
    await settled()
    gate.set()
    outcomes = await delivering
    arrived = [b"%d" % n for n, outcome in enumerate(outcomes[:8]) if outcome is None]
    assert sorted(value for _, _, batch in producer.sent for value in batch if value) == arrived != []
    assert isinstance(outcomes[8], Exception)


async def test_a_topic_that_is_not_there_is_told_to_who_asked() -> None:
    producer = Producer()

    async def unknown(topic: str) -> set[int]:
        raise KafkaError("no such topic")

    producer.partitions_for = unknown  # type: ignore[method-assign]
    with pytest.raises(KafkaError, match="no such topic"):
        await outbox(producer).deliver(outgoing(b"1"))


@pytest.mark.parametrize("answers", [True, False])
async def test_a_topic_is_gone_only_where_a_broker_says_so(answers: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "_METADATA_S", 0.05)
    producer, asked = Producer(), 0

    async def partitions_for(topic: str) -> set[int]:
        if asked < 2:
            raise UnknownTopicOrPartitionError
        return {0}

    async def force_metadata_update() -> bool:
        nonlocal asked
        asked += 1
        return answers

    producer.partitions_for = partitions_for  # type: ignore[method-assign]
    cluster = SimpleNamespace(partitions_for_topic=lambda topic: None)
    producer.client = SimpleNamespace(force_metadata_update=force_metadata_update, cluster=cluster)
    if answers:
        with pytest.raises(UnknownTopicOrPartitionError):
            await outbox(producer).deliver(outgoing(b"1"))
    else:
        await outbox(producer).deliver(outgoing(b"1"))
        assert producer.sent == [("t", 0, [b"1"])]


async def test_the_outbox_goes_on_after_a_failure() -> None:
    producer = Producer()
    box = outbox(producer)
    producer.refuse = lambda sent: TopicAuthorizationFailedError()
    with pytest.raises(TopicAuthorizationFailedError):
        await box.deliver(outgoing(b"1"))
    producer.refuse = lambda sent: None
    await box.deliver(outgoing(b"2"))
    assert producer.sent == [("t", 0, [b"2"])]


@pytest.mark.parametrize("error", [KafkaTimeoutError(), NodeNotReadyError()])
async def test_a_broker_that_is_away_or_slow_is_waited_out_with_one_line(error: Exception) -> None:
    producer, refusals = Producer(), [error] * 3
    producer.refuse = lambda sent: refusals.pop() if refusals else None
    box = outbox(producer)
    with structlog.testing.capture_logs() as lines:
        await asyncio.gather(*(box.deliver(outgoing(b"%d" % n)) for n in range(428)))
    assert sorted(value for _, _, batch in producer.sent for value in batch if value) == sorted(
        b"%d" % n for n in range(428)
    )
    [line] = lines
    assert (line["event"], line["log_level"]) == ("records_wait_for_broker", "warning")
    assert (line["topic"], line["records"]) == ("t", 428)
