"""Runs delivery: fetches records, has them answered, publishes the outcomes and commits."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress

from engines.run.outcomes import Outcomes
from streams.delivery.committer import Committer
from streams.delivery.crash_guard import CrashGuard
from streams.delivery.offsets import OffsetTracker
from streams.delivery.port import Fetched, RecordSink, RecordSource, TopicPartition
from streams.delivery.producer import BatchingProducer
from streams.delivery.publisher import Publisher
from streams.delivery.request_consumer import RequestConsumer
from streams.kafka.topics import Topics
from streams.pipeline.fast_lane import FastLane
from streams.settings import KafkaSettings, WorkerSettings

_FETCH_TIMEOUT_S = 1.0
_FETCH_BESIDE_HELD_BACK_S = 0.02
"""Longest empty fetch while partitions are paused: they are fetched again only after it."""
_NOTHING_ASSIGNED_S = 0.2


class Stream:
    """The delivery between a source of records and a sink for outcomes. Lives on one event loop.

    Each topic has a separate task, so the backlog of one task delays no other. A partition whose records wait for
    room is left out of the fetches of its topic. The next fetch begins when the last one was taken.
    """

    def __init__(
        self,
        source: RecordSource,
        sink: RecordSink,
        *,
        kafka: KafkaSettings,
        worker: WorkerSettings,
        tasks: Iterable[str],
        answering: FastLane,
        outcomes: Outcomes,
        on_fatal: Callable[[BaseException], None],
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        """Build the parts, for a worker, a test or a simulation.

        `on_fatal` is called with an error after which the worker must exit; what it has not acked is delivered again.
        """
        topics = Topics(kafka.topic_prefix)
        self._source = source
        self._tasks = {topics.requests(task): task for task in tasks}
        self._most = kafka.max_poll_records
        self._session_s = kafka.session_timeout_s
        self.tracker = OffsetTracker(window=worker.max_in_flight, clock=asyncio.get_running_loop().time)
        self._guard = CrashGuard(self.tracker, max_crashes=worker.max_crashes, window=worker.max_in_flight)
        self.publisher = Publisher(
            BatchingProducer(sink),
            topics=topics,
            outcomes=outcomes,
            worker=worker.name,
            group=kafka.group_id,
            max_message_bytes=kafka.max_message_bytes,
            reply_topics=worker.reply_topics,
            wall_clock=wall_clock,
        )
        self.request_consumer = RequestConsumer(
            answering=answering,
            publisher=self.publisher,
            tracker=self.tracker,
            guard=self._guard,
            is_current=lambda generation: generation == source.generation,
            outcomes=outcomes,
            worker=worker.name,
            on_fatal=on_fatal,
            wall_clock=wall_clock,
        )
        self.committer = Committer(source, self.tracker, self._guard, interval_s=kafka.commit_interval_s)
        source.attach(self)

    async def run(self) -> None:
        """Fetch and commit until cancelled.

        Raises:
            KafkaError: permanent.
            PositionLost: permanent; the source skipped records.
        """
        async with asyncio.TaskGroup() as running:
            running.create_task(self.committer.run(), name="commit offsets")
            for topic in self._tasks:
                running.create_task(self._follow(topic), name=f"follow {topic}")

    def take(self, topic: str, fetched: Sequence[Fetched]) -> None:
        self.request_consumer.take(fetched, self._tasks[topic])

    def begin(self, assigned: Collection[TopicPartition]) -> None:
        self.request_consumer.under_way.begin(assigned)
        self._guard.forget_all()

    async def withdraw(self) -> None:
        """Remove this worker's crash notes: it stops, but not because of a request."""
        self._guard.withdraw()
        await self.committer.commit()

    async def drain(self, within_s: float | None = None) -> None:
        self.request_consumer.under_way.give_back()
        if within_s is None:
            await self.withdraw()  # a worker that stops may be killed before its last request is answered
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await self.tracker.drained()
        self._guard.withdraw()  # others begin on what is not answered
        with suppress(TimeoutError):  # by then others have the partitions
            async with asyncio.timeout(self._session_s):
                await self.committer.commit_last()

    async def _follow(self, topic: str) -> None:
        """Fetch the records of `topic` for ever."""
        while True:
            generation = await self._source.opened()
            assigned = self._source.partitions(topic)
            if not assigned:
                await asyncio.sleep(_NOTHING_ASSIGNED_S)
                continue
            partitions = assigned - self.tracker.held_back
            if not partitions:
                await self.tracker.progress()
                continue
            timeout_s = _FETCH_TIMEOUT_S if partitions == assigned else _FETCH_BESIDE_HELD_BACK_S
            await self._source.fetch(generation, topic, partitions, self._most, timeout_s)
