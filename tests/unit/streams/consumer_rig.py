"""An request_consumer between a pipeline that answers when told and a publisher that notes what it was given."""

from __future__ import annotations

import asyncio
import json
from itertools import groupby
from typing import Any, cast

from engines.run.outcomes import Outcomes
from engines.run.results import result_of
from engines.run.statistics import Statistics
from handlers.errors import InferenceError
from streams.delivery.offsets import OffsetTracker
from streams.delivery.port import ProducerRecord, Record
from streams.delivery.publisher import Publisher, Reply
from streams.delivery.request_consumer import RequestConsumer
from streams.messages import Request, Result, decode_result, encode
from streams.pipeline.fast_lane import FastLane, OnResult
from tests.unit.streams.received_messages import TOPIC, Fetches, NoGuard, message, offsets_due

VALID = {"task": "asr", "engine": "e", "model_name": "m", "data": {}}


class Acker(OffsetTracker):
    """Notes what is acked."""

    def __init__(self, journal: list[str], window: int) -> None:
        super().__init__(window=window)
        self.journal = journal

    def done(self, message: Record) -> None:
        super().done(message)
        position = offsets_due(self).get((message.topic, message.partition))
        self.journal.append(f"position {position}")


class Started:
    """A request whose engine has begun, unless the rig says otherwise."""

    def __init__(self, rig: Rig, id: str, answer: asyncio.Task[None] | None) -> None:
        self._rig = rig
        self._id = id
        self._answer = answer

    def give_up(self) -> bool:
        return self._id in self._rig.not_begun

    def cancel(self) -> bool:
        self._rig.cancelled.append(self._id)
        if self._answer is not None:
            self._answer.cancel()
        return True


class Rig:
    """An request_consumer between a pipeline that answers when told and a publisher that notes what it was given."""

    def __init__(self, *, max_in_flight: int = 8, publish_error: Exception | None = None) -> None:
        self.journal: list[str] = []
        self.requests: list[Request] = []
        self.results: list[dict[str, Any]] = []
        self.reply_topics: list[str | None] = []
        self.dead_letters: list[InferenceError] = []
        self.stages: list[str] = []
        self.fatal: list[BaseException] = []
        self.publish_error = publish_error
        self.gates: dict[str, asyncio.Event] = {}
        self.quick: set[str] = set()
        """Ids of requests whose way is clear; `finish_quick` answers them."""
        self.not_begun: set[str] = set()
        """Ids of requests that no engine has begun with."""
        self.cancelled: list[str] = []
        """Ids of requests whose work was cancelled."""
        self.started: list[tuple[Request, OnResult]] = []
        self.answers: set[asyncio.Task[None]] = set()
        self.post_error: Exception | None = None
        self.is_too_large = False
        self.queue_s: list[float] = []
        self.dead_letter_error: Exception | None = None
        self.generation = 1
        self.statistics = Statistics()
        self.fetches = Fetches()
        self.tracker = Acker(self.journal, max_in_flight)
        self.request_consumer = RequestConsumer(
            answering=cast(FastLane, self),
            publisher=cast(Publisher, self),
            tracker=self.tracker,
            guard=NoGuard(self.tracker),
            is_current=lambda generation: generation == self.generation,
            outcomes=Outcomes(self.statistics),
            worker="w1",
            on_fatal=self.fatal.append,
        )

    def commit(self) -> None:
        self.tracker.committed(self.tracker.positions())

    def start(self, request: Request, on_result: OnResult, *, queue_s: float, **_: Any) -> Started:
        answer: asyncio.Task[None] | None = None
        if request.id in self.quick:
            self.started.append((request, on_result))
        else:
            answer = asyncio.create_task(self._answer(request, on_result, queue_s))
            self.answers.add(answer)
        return Started(self, request.id, answer)

    def reassign(self, *partitions: int) -> None:
        """Begin the next generation, with these partitions of the topic."""
        self.generation += 1
        self.request_consumer.under_way.begin([(TOPIC, number) for number in partitions])

    async def close(self) -> None:
        for answer in self.answers:
            answer.cancel()

    async def _answer(self, request: Request, on_result: OnResult, queue_s: float) -> None:
        self.requests.append(request)
        self.queue_s.append(queue_s)
        if request.id in self.gates:
            await self.gates[request.id].wait()
        on_result(answer_to(request))

    def finish_quick(self) -> None:
        request, on_result = self.started.pop(0)
        self.requests.append(request)
        on_result(answer_to(request))

    def post(self, result: Result, reply: Reply) -> bool:
        if self.is_too_large or result.id not in self.quick:
            return False
        if self.post_error is None:
            self.journal.append(f"posted {result.id}")
        else:
            reply.refused = (ProducerRecord("results", None, encode(result), []),)
        reply.ended(self.post_error)
        return True

    def allows(self, reply_to: str) -> bool:
        return reply_to.startswith("replies.")

    async def result(self, result: Result, reply: Reply) -> None:
        if self.publish_error is not None:
            raise self.publish_error
        self.journal.append(f"result {result.id}")
        self.results.append(result.as_dict())
        self.reply_topics.append(reply.reply_to)

    async def republish(self, reply: Reply) -> None:
        [record] = reply.refused
        await self.result(decode_result(record.value or b""), reply)

    async def dead_letter(self, origin: Record, *, task: str, stage: str, error: InferenceError) -> None:
        if self.dead_letter_error is not None:
            raise self.dead_letter_error
        self.journal.append(f"dead letter {origin.offset}")
        self.dead_letters.append(error)
        self.stages.append(stage)

    def take(self, offset: int, value: bytes | None, **changes: Any) -> None:
        self.take_all([message(offset, value, **changes)])

    def take_all(self, messages: list[Record]) -> None:
        """Take what one fetch brought: the messages of each partition in turn."""
        fetched = [
            self.fetches.of(list(of_partition), generation=self.generation)
            for _, of_partition in groupby(messages, key=lambda one: one.partition)
        ]
        self.request_consumer.take(fetched, "asr")

    async def settle(self) -> None:
        for _ in range(20):
            await asyncio.sleep(0)


def answer_to(request: Request) -> Result:
    return result_of(
        {},
        id=request.id,
        task=request.task,
        engine=request.engine,
        model_name=request.model_name,
        processing_s=0.0,
    )


def request(**changes: object) -> bytes:
    return json.dumps(VALID | changes).encode()
