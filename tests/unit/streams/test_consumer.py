"""Our consumer on Faust's: what is delivered, what is committed, and what of Faust it relies on."""

from __future__ import annotations

import asyncio
import hashlib
import importlib.metadata
import inspect
from collections import defaultdict
from collections.abc import Callable
from typing import Any, cast

import faust
import pytest
from aiokafka import AIOKafkaConsumer, errors
from faust.app.base import App
from faust.tables.recovery import Recovery
from faust.transport import consumer as base
from faust.transport.conductor import Conductor
from faust.transport.drivers import aiokafka as driver
from faust.types import TP
from mode import Service
from mode.utils.queues import FlowControlEvent

from streams.acks import OrderedAcker, Received
from streams.consumer import BatchConsumer, BatchTransport
from tests.unit.streams.received_messages import TOPIC, message

PARTITION = TP(TOPIC, 0)


class Thread(Service):
    """Stands for the consumer's thread: answers fetches from a script, in the order in which they are asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.answers: list[tuple[int, dict[TP, list[Received]]]] = []
        self.asked: list[set[TP]] = []
        self.timeouts: list[float] = []
        self.thread_loop = asyncio.get_running_loop()
        self.committed: list[dict[TP, int]] = []
        self.refusals: dict[str, int] = {}
        """The broker's error code for commits of a topic."""
        self.assigned = {PARTITION}

    async def commit_once(self, offsets: dict[TP, int], generation: int) -> dict[TP, int]:
        self.committed.append(offsets)
        return {tp: self.refusals.get(tp.topic, 0) for tp in offsets}

    def assignment(self) -> set[TP]:
        return self.assigned

    async def fetch(
        self, partitions: set[TP], max_records: int | None, timeout_s: float
    ) -> tuple[int, dict[TP, list[Received]]]:
        self.asked.append(set(partitions))
        self.timeouts.append(timeout_s)
        while not self.answers:
            await asyncio.sleep(0)
        return self.answers.pop(0)


class Consumer(BatchConsumer):
    def _new_consumer_thread(self) -> Any:
        return Thread()


class Transport(BatchTransport):
    Consumer = Consumer


class Rig:
    """A consumer without a broker, following one topic; `queue` is that of the topic's agent."""

    def __init__(self) -> None:
        self.app = faust.App("rig", broker="kafka://localhost", stream_buffer_maxsize=1)
        self.app.transport = Transport(
            self.app.conf.broker_consumer, self.app, acker=OrderedAcker(window=4), fetch_max_wait_ms=20
        )
        self.consumer = cast(Any, self.app.consumer)
        self.thread: Thread = self.consumer._thread
        self.consumer._active_partitions = {PARTITION}
        self.queue: asyncio.Queue[list[list[Received]]] = asyncio.Queue(1)
        self.app.consumer_generation_id = 1
        self.app.flow_control.resume()
        self.consumer.resume_flow()

    async def following(self) -> asyncio.Task[None]:
        self.consumer.make_room(TOPIC)
        return asyncio.create_task(self.consumer._follow(TOPIC, self.queue))

    async def offsets(self) -> list[int]:
        async with asyncio.timeout(10):
            fetched = await self.queue.get()
        return [one.offset for messages in fetched for one in messages]


@pytest.fixture
async def rig() -> Any:
    made = Rig()
    task = await made.following()
    yield made
    task.cancel()
    await asyncio.wait([task])


def fetched(first: int, count: int) -> dict[TP, list[Received]]:
    return {PARTITION: [message(first + n, generation=-1) for n in range(count)]}


async def test_what_a_fetch_brings_arrives_as_one_list(rig: Rig) -> None:
    rig.thread.answers.append((1, fetched(5, 3)))
    assert await rig.offsets() == [5, 6, 7]
    assert rig.thread.asked[0] == {PARTITION}


async def test_each_partition_of_a_fetch_arrives_as_a_list_of_its_own(rig: Rig) -> None:
    other = TP(TOPIC, 1)
    nothing_new = TP(TOPIC, 2)
    rig.consumer._delivered[nothing_new] = 9
    beside = {other: [message(1, partition=1)], nothing_new: [message(9, partition=2)]}
    rig.thread.answers.append((1, fetched(5, 2) | beside))
    async with asyncio.timeout(10):
        arrived = await rig.queue.get()
    assert [[one.partition for one in messages] for messages in arrived] == [[0, 0], [1]]


async def test_the_next_fetch_waits_until_the_list_was_taken(rig: Rig) -> None:
    rig.thread.answers += [(1, fetched(0, 2)), (1, fetched(2, 2))]
    assert await rig.offsets() == [0, 1]
    for _ in range(20):
        await asyncio.sleep(0)
    assert len(rig.thread.asked) == 1
    rig.consumer.make_room(TOPIC)
    assert await rig.offsets() == [2, 3]


async def test_a_partition_that_is_held_back_is_left_out_of_fetches_which_end_soon_until_it_is_released(
    rig: Rig,
) -> None:
    other = TP(TOPIC, 1)
    rig.consumer._active_partitions = {PARTITION, other}
    while not rig.thread.asked:
        await asyncio.sleep(0)
    rig.consumer.acker.hold_back((TOPIC, 0))
    rig.thread.answers += [(1, {}), (1, {})]
    while len(rig.thread.asked) < 3:
        await asyncio.sleep(0)
    rig.consumer.acker.release((TOPIC, 0))
    rig.thread.answers.append((1, fetched(5, 1)))
    assert await rig.offsets() == [5]
    rig.consumer.make_room(TOPIC)
    while len(rig.thread.asked) < 4:
        await asyncio.sleep(0)
    assert rig.thread.asked[1:] == [{other}, {other}, {PARTITION, other}]
    assert rig.thread.timeouts[1] == rig.thread.timeouts[2] < rig.thread.timeouts[3]


async def test_a_topic_of_which_all_partitions_are_held_back_is_fetched_again_at_the_first_release(
    rig: Rig,
) -> None:
    while not rig.thread.asked:
        await asyncio.sleep(0)
    rig.consumer.acker.hold_back(PARTITION)
    rig.thread.answers.append((1, {}))
    for _ in range(20):
        await asyncio.sleep(0)
    assert (rig.thread.answers, len(rig.thread.asked)) == ([], 1)
    rig.consumer.acker.release(PARTITION)
    rig.thread.answers.append((1, fetched(0, 2)))
    assert await rig.offsets() == [0, 1]


async def test_records_of_another_generation_are_dropped(rig: Rig) -> None:
    rig.thread.answers += [(2, fetched(0, 2)), (1, fetched(7, 1))]
    assert await rig.offsets() == [7]


async def test_nothing_is_delivered_during_a_rebalance_and_the_topic_is_followed_afterwards(rig: Rig) -> None:
    while not rig.thread.asked:
        await asyncio.sleep(0)
    rig.consumer.stop_flow()
    rig.thread.answers.append((1, fetched(0, 2)))
    while rig.thread.answers:
        await asyncio.sleep(0)
    rig.app.consumer_generation_id = 2
    rig.consumer.resume_flow()
    rig.thread.answers.append((2, fetched(0, 3)))
    assert await rig.offsets() == [0, 1, 2]


async def test_a_list_that_a_rebalance_cleared_from_the_queue_holds_nothing_up(rig: Rig) -> None:
    rig.thread.answers.append((1, fetched(0, 2)))
    while not rig.queue.full():
        await asyncio.sleep(0)
    rig.queue.get_nowait()  # as Faust's flow control does, without telling
    rig.consumer.stop_flow()
    rig.consumer.resume_flow()
    rig.thread.answers.append((1, fetched(0, 2)))
    assert await rig.offsets() == [0, 1]


async def test_records_that_come_twice_in_one_generation_are_delivered_once(rig: Rig) -> None:
    rig.thread.answers += [(1, fetched(0, 3)), (1, fetched(1, 4))]
    assert await rig.offsets() == [0, 1, 2]
    rig.consumer.make_room(TOPIC)
    assert await rig.offsets() == [3, 4]


async def test_only_what_the_acker_vouches_for_in_this_generation_can_be_committed(rig: Rig) -> None:
    acker = rig.consumer.acker
    first, second, third = (message(n) for n in (3, 4, 5))
    for one in (first, second, third):
        acker.track([one])
    acker.done(third)
    acker.done(second)
    assert list(rig.consumer._filter_tps_with_pending_acks()) == []
    assert rig.consumer._filter_committable_offsets([PARTITION]) == {}
    acker.done(first)
    assert list(rig.consumer._filter_tps_with_pending_acks()) == [PARTITION]
    assert rig.consumer._filter_committable_offsets([PARTITION]) == {PARTITION: 6}
    rig.app.consumer_generation_id = 2
    assert list(rig.consumer._filter_tps_with_pending_acks()) == []


async def test_a_commit_that_is_due_does_not_wait_for_the_interval(rig: Rig) -> None:
    committing = asyncio.create_task(rig.consumer._commit_when_due(rig.consumer))
    acker = rig.consumer.acker
    made = [message(n) for n in range(3)]
    for one in made:
        acker.track([one])
    acker.done(made[0])
    for _ in range(20):
        await asyncio.sleep(0)
    assert rig.thread.committed == []
    acker.done(made[1])
    async with asyncio.timeout(10):
        while acker.uncommitted > 1:
            await asyncio.sleep(0)
    assert rig.thread.committed == [{PARTITION: 2}]
    committing.cancel()


async def test_what_a_failed_commit_did_not_reach_stays_uncommitted(rig: Rig) -> None:
    rig.thread.refusals[TOPIC] = errors.RequestTimedOutError.errno
    acker = rig.consumer.acker
    only = message(0)
    acker.track([only])
    acker.done(only)
    assert not await rig.consumer.commit()
    assert (rig.thread.committed, acker.uncommitted) == ([{PARTITION: 1}], 1)


async def test_a_failed_commit_is_made_up_for_though_nothing_was_acked_since(rig: Rig) -> None:
    acker = rig.consumer.acker
    only = message(0)
    acker.track([only])
    acker.done(only)
    rig.thread.refusals[TOPIC] = errors.RequestTimedOutError.errno
    await rig.consumer.commit()
    rig.thread.refusals.clear()
    assert await rig.consumer.commit()
    assert acker.uncommitted == 0
    assert not await rig.consumer.commit()  # there is nothing left to commit
    # By these Faust tells a stream that stands still.
    assert rig.app.monitor.tp_committed_offsets == {PARTITION: 1}


async def test_partitions_that_are_no_longer_assigned_are_not_committed(rig: Rig) -> None:
    acker = rig.consumer.acker
    for one in (message(0), message(0, partition=1)):
        acker.track([one])
        acker.done(one)
    await rig.consumer.commit()
    assert rig.thread.committed == [{PARTITION: 1}]


async def test_the_commit_of_stock_faust_would_pass_the_message_in_flight() -> None:
    """Why the commit is ours; when this fails, Faust may have been repaired (its issue 606)."""
    stock: Any = object.__new__(driver.Consumer)
    stock._acked = defaultdict(list, {PARTITION: [4, 5]})
    stock._acked_index = defaultdict(set, {PARTITION: {4, 5}})
    stock._gap = defaultdict(set)
    stock._committed_offset = defaultdict(lambda: None, {PARTITION: 3})
    assert stock._new_offset(PARTITION) == 6  # 3 is still in flight


def test_this_is_the_version_of_faust_that_the_consumer_was_written_for() -> None:
    assert importlib.metadata.version("faust-streaming") == "0.15.3"


@pytest.mark.parametrize(
    ("method", "fingerprint"),
    [
        # Replaced by ours: a change here may be one that ours needs too.
        (base.Consumer._drain_messages, "_drain_messages"),
        (base.Consumer.getmany, "getmany"),
        (base.Consumer.wait_empty, "wait_empty"),
        (base.Consumer._filter_tps_with_pending_acks, "_filter_tps_with_pending_acks"),
        (base.Consumer._new_offset, "_new_offset"),
        (base.Consumer._commit_offsets, "_commit_offsets"),
        # Relied on, in this order: flow stops, queues are cleared, work drains; positions are sought, flow resumes.
        (base.Consumer._commit_tps, "_commit_tps"),
        (base.Consumer._should_commit, "_should_commit"),
        (base.Consumer.on_partitions_revoked, "on_partitions_revoked"),
        (base.Consumer.on_stop, "on_stop"),
        (App._on_partitions_revoked, "App._on_partitions_revoked"),
        (App._stop_consumer, "App._stop_consumer"),
        (Recovery._resume_streams, "Recovery._resume_streams"),
        (FlowControlEvent.resume, "FlowControlEvent.resume"),
        (Conductor._update_indices, "Conductor._update_indices"),
        # Called or overridden under names that are Faust's own business.
        (driver.AIOKafkaConsumerThread._fetch_records, "_fetch_records"),
        (driver.AIOKafkaConsumerThread._ensure_consumer, "_ensure_consumer"),
        (driver.ConsumerRebalanceListener.on_partitions_assigned, "on_partitions_assigned"),
        (driver.Producer._ensure_producer, "_ensure_producer"),
    ],
)
def test_what_is_replaced_or_relied_on_in_faust_is_as_it_was(
    method: Callable[..., Any], fingerprint: str
) -> None:
    assert fingerprint_of(method) == FINGERPRINTS[fingerprint], (
        f"{method.__qualname__} has changed: read it, compare consumer.py and commits.py, then note it"
    )


def fingerprint_of(method: Callable[..., Any]) -> str:
    return hashlib.sha256(inspect.getsource(method).encode()).hexdigest()[:12]


def test_aiokafka_still_keeps_the_wait_of_a_fetch_and_the_generation_where_they_are_looked_for() -> None:
    assert "self._fetch_max_wait_ms" in inspect.getsource(AIOKafkaConsumer.__init__)
    source = inspect.getsource(driver.ConsumerRebalanceListener.on_partitions_assigned)
    assert "_coordinator.generation" in source


def test_the_transport_brings_our_consumer() -> None:
    assert BatchTransport.Consumer is BatchConsumer


FINGERPRINTS: dict[str, str] = {
    "_drain_messages": "44a2500309e8",
    "getmany": "4b168d84882a",
    "wait_empty": "e4662fe24f09",
    "_filter_tps_with_pending_acks": "f6f923977423",
    "_new_offset": "1d2c7ea89a7a",
    "_commit_tps": "a20e230b05ae",
    "_should_commit": "5ce941793947",
    "_commit_offsets": "1a6979904118",
    "on_partitions_revoked": "d04b7ae72c6f",
    "on_stop": "45b1d2210ce2",
    "App._on_partitions_revoked": "d5c895bbe57d",
    "App._stop_consumer": "55854a5de12c",
    "Recovery._resume_streams": "d986a6710c1a",
    "FlowControlEvent.resume": "4dcdc1253fd0",
    "Conductor._update_indices": "619b3247b96a",
    "_fetch_records": "39a2c6c79fc1",
    "_ensure_consumer": "ff4a4c693b7e",
    "on_partitions_assigned": "1c1f8406ad36",
    "_ensure_producer": "5592a4bbdf25",
}
