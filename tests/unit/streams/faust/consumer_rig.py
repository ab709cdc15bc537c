"""Our consumer on Faust's without a broker: what it fetches comes from a script."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any, cast

from faust.types import TP
from mode import Service

from engines.run.outcomes import Outcomes
from streams.delivery.port import Fetched, RecordSink, TopicPartition
from streams.delivery.request_consumer import RequestConsumer
from streams.delivery.stream import Stream
from streams.delivery.under_way import UnderWay
from streams.faust.faust_internals import BatchConsumer, BatchTransport, InferenceApp
from streams.faust.membership import Membership
from streams.faust.port import FaustSource
from streams.faust.positions import PartitionReader
from streams.pipeline.fast_lane import FastLane
from streams.settings import KafkaSettings, WorkerSettings
from tests.unit.streams.received_messages import TOPIC, Fetches, message

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
            self.app.conf.broker_consumer, self.app, source=self.source, kafka=KafkaSettings()
        )
        self.consumer = cast(Any, self.app.consumer)
        self.taken: list[Sequence[Fetched]] = []
        self.stream = Stream(
            self.source,
            cast(RecordSink, None),
            kafka=KafkaSettings(commit_interval_s=60.0),
            worker=WorkerSettings().model_copy(update={"max_in_flight": 4}),
            tasks=["asr"],
            answering=cast(FastLane, None),
            outcomes=cast(Outcomes, None),
            on_fatal=lambda error: None,
        )
        self.tracker = self.stream.tracker
        self.stream.request_consumer = cast(
            RequestConsumer,
            SimpleNamespace(
                take=lambda fetched, task: self.taken.append(fetched), under_way=UnderWay(self.stream.tracker)
            ),
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
        self.source.assign(generation, [PARTITION])
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


async def turns() -> None:
    for _ in range(20):
        await asyncio.sleep(0)
