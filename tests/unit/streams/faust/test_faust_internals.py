"""Our consumer on Faust's: what is delivered, what is committed, and what of Faust it relies on."""

from __future__ import annotations

import asyncio
import hashlib
import importlib.metadata
import inspect
from collections import defaultdict
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest
from aiokafka import errors
from faust.app.base import App
from faust.tables.recovery import Recovery
from faust.transport import consumer as base
from faust.transport.conductor import Conductor
from faust.transport.drivers import aiokafka as driver
from faust.types import TP
from mode import Service
from mode.utils.queues import FlowControlEvent

from engines.run.outcomes import Outcomes
from streams.delivery import request_consumer
from streams.delivery.port import Fetched, PositionLost, RecordSink, TopicPartition
from streams.delivery.stream import Stream
from streams.faust.faust_internals import BatchConsumer, BatchTransport, InferenceApp, RebalanceListener
from streams.faust.group_supervisor import Supervisor
from streams.faust.membership import Membership
from streams.faust.positions import PartitionReader
from streams.faust.source import FaustSource
from streams.kafka.aiokafka_internals import ConsumerClosing
from streams.settings import KafkaSettings, WorkerSettings
from tests.unit.streams.received_messages import TOPIC, Fetches, message, track

PARTITION = TP(TOPIC, 0)


class Reader:
    """Stands for what lives in the consumer's thread: answers fetches from a script, in the order of asking."""

    def __init__(self) -> None:
        self.answers: list[list[Fetched] | Exception] = []
        self.asked: list[set[TopicPartition]] = []
        self.generations: list[int] = []
        self.timeouts: list[float] = []
        self.loop = asyncio.get_running_loop()

    async def deliver(
        self,
        generation: int,
        partitions: set[TopicPartition],
        most: int,
        timeout_s: float,
        hand_over: Callable[[list[Fetched]], None],
    ) -> None:
        self.generations.append(generation)
        self.asked.append(set(partitions))
        self.timeouts.append(timeout_s)
        while not self.answers:
            await asyncio.sleep(0)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        if answer:
            hand_over(answer)


class Consumer(BatchConsumer):
    def _new_consumer_thread(self) -> Any:
        return Service()


class Transport(BatchTransport):
    Consumer = Consumer


class Rig:
    """A stream and Faust's consumer without a broker, following one topic; `queue` is that of the topic's agent."""

    def __init__(self) -> None:
        self.membership = Membership(KafkaSettings(), [TOPIC], on_fatal=lambda error: None)
        self.source = FaustSource(self.membership)
        self.app = InferenceApp("rig", broker="kafka://localhost", stream_buffer_maxsize=1)
        self.app.transport = Transport(
            self.app.conf.broker_consumer,
            self.app,
            source=self.source,
            kafka=KafkaSettings(),
            membership=self.membership,
        )
        self.consumer = cast(Any, self.app.consumer)
        self.taken: list[Sequence[Fetched]] = []
        self.stream = Stream(
            self.source,
            cast(RecordSink, None),
            kafka=KafkaSettings(commit_interval_s=60.0),
            worker=WorkerSettings().model_copy(update={"max_in_flight": 4}),
            tasks=["asr"],
            answering=cast(request_consumer.Answering, None),
            outcomes=cast(Outcomes, None),
            on_fatal=lambda error: None,
        )
        self.tracker = self.stream.tracker
        self.stream.request_consumer = cast(
            request_consumer.RequestConsumer,
            SimpleNamespace(take=lambda fetched, task: self.taken.append(fetched), give_back=lambda: None),
        )
        self.reader = Reader()
        self.source.reader = cast(PartitionReader, self.reader)
        self.consumer._active_partitions = {PARTITION}
        self.queue: asyncio.Queue[list[Fetched]] = self.app.FlowControlQueue(1, clear_on_resume=True)
        self.consumer.queue_of = lambda topic: self.queue
        self.fetches = Fetches()
        self.open(1)

    def open(self, generation: int) -> None:
        """Have Faust hear of an assignment, and go on."""
        self.source.assign(generation)
        self.app.flow_control.resume()
        self.consumer.resume_flow()

    def fetched(self, first: int, count: int, *, partition: int = 0, generation: int = 1) -> list[Fetched]:
        messages = [message(first + n, partition=partition) for n in range(count)]
        return [self.fetches.of(messages, generation=generation)]

    async def following(self) -> asyncio.Task[None]:
        return asyncio.create_task(self.stream._follow(TOPIC))

    def take(self) -> None:
        """Do what the agent does with what lay in its queue."""
        self.source.take(TOPIC, [])

    def is_current(self, generation: int) -> bool:
        return self.source.generation == generation

    async def offsets(self) -> list[int]:
        async with asyncio.timeout(10):
            fetched = await self.queue.get()
        return [record.offset for one in fetched for record in one.records]

    async def asked(self) -> None:
        """Wait for the first fetch."""
        while not self.reader.asked:
            await asyncio.sleep(0)


@pytest.fixture
async def rig() -> Any:
    made = Rig()
    task = await made.following()
    yield made
    task.cancel()
    await asyncio.wait([task])


async def turns() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


@pytest.mark.logs_errors("request_topic_unreadable")
async def test_a_topic_that_may_not_be_read_any_more_is_told_and_read_again_when_it_may(rig: Rig) -> None:
    membership = rig.membership
    rig.reader.answers.append(errors.TopicAuthorizationFailedError(TOPIC))
    async with asyncio.timeout(60):
        while not membership.unreadable:
            await asyncio.sleep(0)
        rig.reader.answers.append(rig.fetched(5, 2))
        assert [one.offset for fetched in await rig.queue.get() for one in fetched.records] == [5, 6]
        while membership.unreadable:
            await asyncio.sleep(0)


async def test_what_a_fetch_brings_arrives_in_one_list(rig: Rig) -> None:
    other = rig.fetched(1, 1, partition=1)
    rig.reader.answers.append(rig.fetched(5, 2) + other)
    async with asyncio.timeout(10):
        arrived = await rig.queue.get()
    assert [[one.offset for one in fetched.records] for fetched in arrived] == [[5, 6], [1]]
    assert (rig.reader.asked[0], rig.reader.generations[0]) == ({PARTITION}, 1)


async def test_the_next_fetch_waits_until_the_list_was_taken(rig: Rig) -> None:
    rig.reader.answers += [rig.fetched(0, 2), rig.fetched(2, 2)]
    assert await rig.offsets() == [0, 1]
    await turns()
    assert len(rig.reader.asked) == 1
    rig.take()
    assert await rig.offsets() == [2, 3]


async def test_a_partition_that_is_held_back_is_left_out_of_fetches_which_end_soon_until_it_is_released(
    rig: Rig,
) -> None:
    other = TP(TOPIC, 1)
    rig.consumer._active_partitions = {PARTITION, other}
    await rig.asked()
    rig.tracker.hold_back((TOPIC, 0))
    rig.reader.answers += [[], []]
    while len(rig.reader.asked) < 3:
        await asyncio.sleep(0)
    rig.tracker.release((TOPIC, 0))
    rig.reader.answers.append(rig.fetched(5, 1))
    assert await rig.offsets() == [5]
    rig.take()
    while len(rig.reader.asked) < 4:
        await asyncio.sleep(0)
    assert rig.reader.asked[1:] == [{other}, {other}, {PARTITION, other}]
    assert rig.reader.timeouts[1] == rig.reader.timeouts[2] < rig.reader.timeouts[3]


async def test_a_topic_of_which_all_partitions_are_held_back_is_fetched_again_at_the_first_release(
    rig: Rig,
) -> None:
    await rig.asked()
    rig.tracker.hold_back(PARTITION)
    rig.reader.answers.append([])
    await turns()
    assert (rig.reader.answers, len(rig.reader.asked)) == ([], 1)
    rig.tracker.release(PARTITION)
    rig.reader.answers.append(rig.fetched(0, 2))
    assert await rig.offsets() == [0, 1]


async def test_nothing_is_fetched_between_two_generations_and_the_topic_is_followed_in_the_next(
    rig: Rig,
) -> None:
    await rig.asked()
    rig.consumer.stop_flow()
    rig.reader.answers.append([])
    await turns()
    assert (len(rig.reader.asked), rig.is_current(1)) == (1, False)
    rig.open(2)
    rig.reader.answers.append(rig.fetched(0, 3, generation=2))
    assert await rig.offsets() == [0, 1, 2]
    assert rig.reader.generations == [1, 2]
    assert rig.is_current(2)


async def test_the_flow_that_goes_on_while_a_rebalance_runs_opens_nothing(rig: Rig) -> None:
    """Faust resumes late: after it has heard of the next rebalance, or twice for one assignment."""
    await rig.asked()
    rig.consumer.stop_flow()
    rig.consumer.resume_flow()
    rig.reader.answers.append([])
    await turns()
    assert (len(rig.reader.asked), rig.is_current(1)) == (1, False)


async def test_a_slow_request_does_not_put_its_worker_out_of_a_group_that_rebalances(rig: Rig) -> None:
    track(rig.tracker, rig.fetches.of([message(0)]))
    rig.consumer.transport.kafka = KafkaSettings(rebalance_timeout_s=1.0)
    async with asyncio.timeout(60):
        await rig.consumer.wait_empty()
    assert rig.tracker.in_flight == 1


async def test_a_worker_that_stops_waits_for_slow_requests_longer_than_its_group(rig: Rig) -> None:
    track(rig.tracker, rig.fetches.of([message(0)]))
    rig.app.is_draining = True
    rig.consumer.transport.kafka = KafkaSettings(rebalance_timeout_s=1.0)
    waiting = asyncio.create_task(rig.consumer.wait_empty())
    await asyncio.wait([waiting], timeout=1.5)
    assert not waiting.done()
    waiting.cancel()


async def test_what_lies_in_the_queue_outlives_a_flow_that_goes_on_twice(rig: Rig) -> None:
    rig.reader.answers.append(rig.fetched(0, 2))
    while not rig.queue.full():
        await asyncio.sleep(0)
    rig.app.flow_control.resume()
    rig.consumer.resume_flow()
    assert rig.is_current(1)
    assert await rig.offsets() == [0, 1]


async def test_what_an_older_generation_left_in_the_queue_is_taken_first(rig: Rig) -> None:
    rig.reader.answers.append(rig.fetched(0, 2))
    while not rig.queue.full():
        await asyncio.sleep(0)
    rig.app.flow_control.suspend()
    rig.app.flow_control.clear()
    rig.consumer.stop_flow()
    rig.open(2)
    await turns()
    assert len(rig.reader.asked) == 1
    async with asyncio.timeout(10):
        [left] = await rig.queue.get()
    assert not rig.is_current(left.generation)
    rig.take()
    rig.reader.answers.append(rig.fetched(0, 2, generation=2))
    assert await rig.offsets() == [0, 1]


async def test_a_fetch_that_is_cancelled_is_delivered_all_the_same(rig: Rig) -> None:
    """Its records were taken, and are not fetched again in this generation."""
    [one] = rig.fetched(0, 2)

    async def fetch(*arguments: Any) -> None:
        arguments[-1]([one])
        await asyncio.sleep(3600)

    rig.reader.deliver = fetch  # type: ignore[method-assign, assignment]
    fetching = asyncio.create_task(rig.source.fetch(1, TOPIC, {PARTITION}, 10, 1.0))
    await asyncio.sleep(0)
    fetching.cancel()
    assert await rig.offsets() == [0, 1]


async def test_a_stop_while_the_group_rebalances_is_no_crash(rig: Rig) -> None:
    """Faust's fetcher takes its own end for one then, and with it ends the consumer that is to be drained."""
    rig.app.rebalancing = True
    fetcher = cast(Any, rig.app)._fetcher
    await fetcher.start()
    await turns()
    await fetcher.stop()
    assert not fetcher.crashed
    assert rig.app.crash_reason is None


async def test_a_consumer_that_is_closed_while_nobody_stops_ends_the_worker(rig: Rig) -> None:
    following = await rig.following()
    rig.reader.answers += [ConsumerClosing(), ConsumerClosing()]
    with pytest.raises(ConsumerClosing):
        await following


async def test_a_lost_position_ends_the_worker(rig: Rig) -> None:
    following = await rig.following()
    rig.reader.answers += [PositionLost("offset 3 was due"), PositionLost("offset 3 was due")]
    with pytest.raises(PositionLost):
        await following


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
        # Relied on, in this order: flow stops, queues are cleared, work drains; positions are sought, flow resumes.
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
        f"{method.__qualname__} has changed: read it, compare faust_internals.py, then note it"
    )


def fingerprint_of(method: Callable[..., Any]) -> str:
    return hashlib.sha256(inspect.getsource(method).encode()).hexdigest()[:12]


def test_the_transport_brings_our_consumer() -> None:
    assert BatchTransport.Consumer is BatchConsumer


class Failing:
    """Stands for the consumer's thread, of which each step raises an error."""

    def __init__(self, error: Exception) -> None:
        self.error = error
        self.crashes: list[Exception] = []
        self.reader = SimpleNamespace(close=lambda: None, begin=self.fail)
        self.app = SimpleNamespace(on_rebalance_start=lambda: None)
        self.membership = Membership(KafkaSettings(), [], on_fatal=lambda error: None)

    async def fail(self, *_: Any) -> None:
        raise self.error

    on_partitions_revoked = fail

    async def crash(self, error: Exception) -> None:
        self.crashes.append(error)


@pytest.mark.parametrize("step", ["on_partitions_revoked", "on_partitions_assigned"])
async def test_whatever_a_step_of_a_rebalance_raises_ends_the_worker(step: str) -> None:
    thread: Any = Failing(KeyError("a mistake of ours"))
    await getattr(RebalanceListener(thread), step)([])
    assert thread.crashes == [thread.error]


class Answering(Failing):
    """A worker that the group has put out, and that looks at what keeps it from it while it answers."""

    async def on_partitions_revoked(self, *_: Any) -> None:
        coordination = SimpleNamespace(client=None, node=None, take_over=lambda **_: (None, None))
        supervisor = Supervisor(cast(Any, coordination), self.membership)
        supervisor._say_at = 0.0
        await supervisor._look_at_group()


async def test_a_worker_that_answers_before_it_joins_again_says_so() -> None:
    thread: Any = Answering(KeyError())
    thread.membership.state = "searching"
    await RebalanceListener(thread).on_partitions_revoked([])
    assert thread.crashes == []
    assert "requests in work are answered" in thread.membership.reason
    assert not thread.membership.is_answering


async def test_a_stop_during_a_rebalance_is_no_fault() -> None:
    thread: Any = Failing(ConsumerClosing())
    await RebalanceListener(thread).on_partitions_assigned([])
    assert thread.crashes == []


FINGERPRINTS: dict[str, str] = {
    "_drain_messages": "44a2500309e8",
    "getmany": "4b168d84882a",
    "wait_empty": "e4662fe24f09",
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
