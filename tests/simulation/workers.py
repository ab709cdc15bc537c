"""A worker without its models: the delivery core, and what may go wrong around it."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any, cast

from aiokafka import errors

from engines.log_context import LineLimit
from engines.run.outcomes import Outcomes
from engines.run.results import result_of
from engines.run.statistics import Statistics
from handlers.errors import InferenceTimeout, InternalError
from streams.delivery.memory_client import MemorySink, MemorySource
from streams.delivery.port import Fetched, PositionLost, ProducerRecord, RecordListener, TopicPartition
from streams.delivery.stream import Stream
from streams.faults import supervised
from streams.messages import Request, Result
from streams.pipeline.fast_lane import FastLane, OnResult

if TYPE_CHECKING:
    from tests.simulation.world import World

GROUP = "group"
PASSING = (
    errors.NodeNotReadyError,
    errors.KafkaConnectionError,
    errors.RequestTimedOutError,
    errors.KafkaTimeoutError,
)
DELAYS_S = (0.001, 0.02, 0.3, 2.0)
INFER_TIMEOUT_S = 20.0
BLOCKED_S = 8.0
"""Longer than the group waits for a sign of a member."""
_LARGE = "x" * 20_000
"""A text that the publisher does not post unseen."""
DRAIN_TIMEOUT_S = 60.0


class Listener:
    """Stands before the delivery core and counts what it is given."""

    def __init__(self, member: Member, listener: RecordListener) -> None:
        self._member = member
        self._listener = listener
        self.drain = listener.drain

    def take(self, topic: str, fetched: Sequence[Fetched]) -> None:
        for one in fetched:
            self._member.world.delivered.update((one.place, record.offset) for record in one.records)
        self._listener.take(topic, fetched)

    def begin(self, assigned: Collection[TopicPartition]) -> None:
        world = self._member.world
        world.check_repeats(self._member)
        self._listener.begin(assigned)
        for named in self._member.running:
            if world.place_of(named) not in assigned:
                world.failed(f"{self._member.name} goes on with {named}, whose partition has another owner")


class Source(MemorySource):
    """A source whose listener is watched."""

    member: Member

    def attach(self, listener: RecordListener) -> None:
        super().attach(Listener(self.member, listener))


class Sink(MemorySink):
    """A sink that notes what the broker may have although its answer says otherwise."""

    member: Member

    async def send(self, topic: str, partition: int, records: Sequence[ProducerRecord]) -> tuple[int, Exception | None]:
        count, error = await super().send(topic, partition, records)
        if error is not None:
            self.member.world.note_doubt(records[:count])
        return count, error


class Run:
    """A request that waits for its model, and then runs."""

    def __init__(self, engine: Engine, request: Request, on_result: OnResult) -> None:
        self._engine = engine
        self._request = request
        self._on_result = on_result
        self._is_cancelled = self._has_begun = False
        self._engine.started(request)
        loop = asyncio.get_running_loop()
        if request.data["waits_s"]:
            loop.call_later(request.data["waits_s"], self._begin)
        else:
            self._begin()

    def give_up(self) -> bool:
        return not self._has_begun and self.cancel()

    def cancel(self) -> bool:
        self._is_cancelled = True
        self._engine.ended(self._request)
        return True

    @property
    def _is_over(self) -> bool:
        return self._is_cancelled or self._engine.is_closed

    def _begin(self) -> None:
        if not self._is_over:
            self._has_begun = True
            takes_s = self._request.data["takes_s"]
            if self._request.data["ends"] == "always blocks":
                self._engine.block()
            end = self._die if self._engine.kills(self._request) else self._end
            if takes_s or end == self._end:
                asyncio.get_running_loop().call_later(takes_s, end)
            else:
                end()

    def _die(self) -> None:
        if not self._is_over:
            self._engine.die(self._request)

    def _end(self) -> None:
        if not self._is_over:
            self._engine.ended(self._request)
            self._on_result(self._engine.result(self._request))


class Engine:
    """Answers as the data of a request says, with results small and large; may end the process instead."""

    def __init__(self, member: Member) -> None:
        self._member = member
        self.is_closed = False

    def start(self, request: Request, on_result: OnResult, **_: Any) -> Run:
        return Run(self, request, on_result)

    def started(self, request: Request) -> None:
        """Count a request as running; it must not be running here already."""
        if request.id in self._member.running:
            self._member.world.failed(f"{request.id} runs twice at once in {self._member.name}")
        self._member.running.add(request.id)

    def ended(self, request: Request) -> None:
        self._member.running.discard(request.id)

    async def close(self) -> None:
        self.is_closed = True

    def kills(self, request: Request) -> bool:
        return self._member.world.may_kill(request)

    def block(self) -> None:
        """Let the process do nothing else until the group has removed it, as a call does that keeps the GIL."""
        self._member.world.freeze(self._member, BLOCKED_S)

    def die(self, request: Request) -> None:
        """End the process, as this request has it."""
        if not self._member.is_dead:
            self._member.crash()
            self._member.world.killed(request)

    def result(self, request: Request) -> Result:
        about: dict[str, Any] = {
            "id": request.id,
            "task": request.task,
            "engine": "simulated",
            "model_name": request.model_name,
            "processing_s": 0.0,
            "worker": self._member.name,
        }
        if request.data["ends"] == "fails":
            return result_of(InternalError("it failed"), **about)
        if request.data["ends"] == "hangs":
            return result_of(InferenceTimeout("it hung"), **about)
        text = "" if request.data["small"] else _LARGE
        return result_of({"text": text}, **about)


class Member:
    """One worker of the group."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.is_dead = False
        self.running: set[str] = set()
        """Requests that an engine of this worker has, by id."""
        self.source = Source(world.broker, GROUP, world.request_topics, self.on_request)
        self.source.member = self
        self.sink = Sink(world.broker, self.on_request)
        self.sink.member = self
        engine = Engine(self)
        self.stream = Stream(
            self.source,
            self.sink,
            kafka=world.kafka,
            worker=world.worker,
            tasks=world.tasks,
            answering=cast(FastLane, engine),
            outcomes=Outcomes(Statistics(), LineLimit(10**9, 1.0)),  # beyond that a thread tells
            on_fatal=self.on_fatal,
            wall_clock=asyncio.get_running_loop().time,
        )

    async def start(self) -> None:
        self._delivering = supervised(asyncio.create_task(self.stream.run(), name="deliver requests"))
        await self.source.start()

    async def leave(self) -> None:
        """Drain and go; a worker that cannot drain in time ends all the same."""
        try:
            async with asyncio.timeout(DRAIN_TIMEOUT_S):
                await self.source.stop()
        except TimeoutError:
            pass
        self.crash()

    def crash(self) -> None:
        """End at this very moment: nothing that this worker still does reaches the broker."""
        if not self.is_dead:
            self.is_dead = True
            self.world.end(self)

    def on_fatal(self, error: BaseException) -> None:
        """Do as a worker does: exit, to have what is not acked delivered again."""
        if self.is_dead:
            return
        self.world.disturbances += 1
        if isinstance(error, PositionLost) or not isinstance(error, errors.TopicAuthorizationFailedError):
            self.world.failed(f"{self.name} ended: {error!r}")
        self.crash()

    async def on_request(self, step: str) -> None:
        """Let a request or its answer be late, or get lost."""
        rng, plan = self.world.rng, self.world.plan
        chance = rng.random()
        if chance < 0.1:
            await asyncio.sleep(rng.choice(DELAYS_S) * rng.random())
        elif chance < 0.4:
            await asyncio.sleep(0)
        if not self.world.is_calm and rng.random() < plan.crash_rate:
            self.world.disturbances += 1
            self.crash()
        if self.is_dead:
            await asyncio.get_running_loop().create_future()
        if self.world.is_calm:
            return
        if rng.random() < plan.error_rate:
            raise rng.choice(PASSING)()
        if step == "send" and rng.random() < plan.refusal_rate:
            raise errors.TopicAuthorizationFailedError
