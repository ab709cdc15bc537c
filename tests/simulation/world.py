"""One run of the simulation: a broker, workers that come and go, requests, and what must hold."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import Context
from typing import Any

import structlog

from handlers.logger import PROCESSORS
from streams.delivery.memory_broker import MemoryBroker
from streams.delivery.port import Positions, ProducerRecord, TopicPartition
from streams.kafka.topics import Topics
from streams.messages import Request
from streams.settings import KafkaSettings, WorkerSettings
from tests.simulation.loop import OWNER, SeededLoop, Stalled
from tests.simulation.plan import Event, Plan
from tests.simulation.workers import GROUP, INFER_TIMEOUT_S, Member

SESSION_S = 6.0
REBALANCE_S = 30.0
PATIENCE_S = 900.0
"""Until when all must be answered and committed once nothing goes wrong any more, in virtual seconds."""

TOPICS = Topics()
_KAFKA = KafkaSettings(session_timeout_s=SESSION_S, heartbeat_interval_s=2.0, commit_interval_s=2.0)
_WORKER = WorkerSettings(reply_topics=("replies",))
_DATA = {"small": (True, True, False), "ends": ("answers",) * 16 + ("fails", "hangs", "kills") * 2}
_WHERE = ("topic", "partition", "offset")
_MOST_KILLED = 7
"""By one request with no record of its partition finished in between, where nothing else ends workers. A worker that
has finished a record begins the count anew, so before it is first in line a request may end one for each record."""


class Broker(MemoryBroker):
    """A broker that shows what it is about to take."""

    world: World

    def append(self, topic: str, partition: int, records: Sequence[ProducerRecord]) -> int:
        first = super().append(topic, partition, records)
        self.world.note_outcomes(records)
        return first

    def commit(self, group: str, member: str, generation: int, positions: Positions) -> int:
        before = dict(self.group(group).committed)
        code = super().commit(group, member, generation, positions)
        if not code:
            self.world.check_commit(before, positions)
        return code


class World:
    """Everything of one run."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.rng = random.Random(plan.seed)
        self.kafka = _KAFKA.model_copy(update={"max_poll_records": plan.most_fetched})
        self.worker = _WORKER.model_copy(update={"max_in_flight": plan.window})
        self.tasks = [f"task{number}" for number in range(plan.tasks)]
        self.request_topics = [TOPICS.requests(task) for task in self.tasks]
        self.broker = Broker(
            {**dict.fromkeys(TOPICS.all_of(self.tasks), plan.partitions), "replies": 1},
            session_s=SESSION_S,
            rebalance_s=REBALANCE_S,
            wall_clock=asyncio.get_running_loop().time,
        )
        self.broker.world = self
        self.members: list[Member] = []
        self.names = 0
        self.asked: dict[tuple[TopicPartition, int], str] = {}
        """What the outcome of each request is known by."""
        self.kills: Counter[str] = Counter()
        self.kills_at: dict[str, tuple[int, int]] = {}
        """The position of its partition when a request last ended a worker, and how many it ended there in a row."""
        self.given_up: Counter[str] = Counter()
        """Requests that were given up as they end workers."""
        self.disturbances = 0
        """How many workers ended, or were frozen, for another reason than a request."""
        self.outcomes: Counter[str] = Counter()
        self.doubts: Counter[str] = Counter()
        self.delivered: Counter[tuple[TopicPartition, int]] = Counter()
        self.failures: list[str] = []
        self.is_calm = False

    async def run(self) -> None:
        """Let everything happen; what must not is in `failures` then."""
        for _ in range(self.plan.members):
            self.join()
        producing = asyncio.create_task(self.produce())
        for event in self.plan.events:
            await asyncio.sleep(event.after_s)
            for _ in range(event.turns):
                await asyncio.sleep(0)
            self.happen(event)
        await producing
        self.is_calm = True
        self.loop.frozen.clear()
        self.join()
        began = self.loop.now
        while not self.failures and (left := self.left()):
            if self.loop.now > began + PATIENCE_S * (1 + len(self.kills)):
                self.failed(f"stuck: {left}")
            if not self.members:
                self.join()
            await asyncio.sleep(1.0)
        self.check_outcomes()

    @property
    def loop(self) -> SeededLoop:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, SeededLoop)
        return loop

    def join(self) -> None:
        self.names += 1
        name = f"worker{self.names}"
        token = OWNER.set(name)
        try:
            member = Member(self, name)
            self.members.append(member)
            self.loop.create_task(member.start())
        finally:
            OWNER.reset(token)

    def end(self, member: Member) -> None:
        """Take a member away that has died or left."""
        if member in self.members:
            self.members.remove(member)
        self.loop.frozen.discard(member.name)
        for task in list(self.loop.tasks.get(member.name, ())):
            task.cancel()

    def happen(self, event: Event) -> None:
        if event.kind == "join" or not self.members:
            if len(self.members) < 4:
                self.join()
            return
        member = self.members[event.which % len(self.members)]
        if event.kind == "crash":
            self.disturbances += 1
            member.crash()
        elif event.kind == "leave":
            self.members.remove(member)
            token = OWNER.set(member.name)
            self.loop.create_task(member.leave())
            OWNER.reset(token)
        else:
            self.freeze(member, event.for_s)

    def freeze(self, member: Member, for_s: float) -> None:
        """Hold all that a member does for so long."""
        self.disturbances += 1
        self.loop.frozen.add(member.name)
        self.loop.call_later(for_s, self.loop.frozen.discard, member.name, context=Context())

    async def produce(self) -> None:
        """Send requests of every kind; some have no id, and some are none."""
        for number in range(self.plan.requests):
            topic = self.rng.choice(self.request_topics)
            partition = self.rng.randrange(self.plan.partitions)
            log = self.broker.logs[topic, partition]
            if self.rng.random() < 0.1:
                log.skip(self.rng.randint(1, 3))
            by_offset = f"{topic}/{partition}/{log.end}"
            kind = self.rng.choice(("named",) * 6 + ("unnamed", "not valid", "unreadable", "replied to"))
            named = by_offset if kind in ("unnamed", "unreadable") else f"r{number}"
            self.asked[(topic, partition), log.end] = named
            record = ProducerRecord(topic, None, self.request(kind, named, topic), [])
            self.broker.append(topic, partition, [record])
            await asyncio.sleep(self.rng.choice((0.0, 0.0, 0.05, 1.0)) * self.rng.random())

    def request(self, kind: str, named: str, topic: str) -> bytes:
        if kind == "unreadable":
            return b"no request"
        data: dict[str, Any] = {name: self.rng.choice(values) for name, values in _DATA.items()}
        data["waits_s"] = self.rng.choice((0.0,) * 7 + (30.0,)) * self.rng.random()
        slow_s = self.rng.choice((0.0, 0.01, 0.5, 3.0)) * self.rng.random()
        if self.rng.random() < self.plan.poison_rate:
            data["ends"] = self.rng.choice(("always kills", "always kills", "always blocks"))
            # Less than a group waits for its members: where it is handed on while it runs, its end is not counted.
            data["waits_s"], slow_s = 0.0, self.plan.dying_s * self.rng.random()
        data["takes_s"] = INFER_TIMEOUT_S if data["ends"] == "hangs" else slow_s
        request: dict[str, Any] = {
            "task": topic.rpartition(".")[2],
            "engine": "simulated",
            "model_name": "m",
            "data": data,
        }
        if kind != "unnamed":
            request["id"] = named
        if kind == "not valid":
            request["bogus"] = 1
        if kind == "replied to":
            request["reply_to"] = "replies"
        return json.dumps(request).encode()

    def may_kill(self, request: Request) -> bool:
        """Return whether this request ends the process; some do so twice, and some always."""
        ends = request.data["ends"]
        return bool(ends == "always kills" or (ends == "kills" and self.kills[request.id] < 2))

    def killed(self, request: Request) -> None:
        """Count a worker that this request has ended, and have another join in its place."""
        self.kills[request.id] += 1
        place = self.place_of(request.id)
        position = self.broker.group(GROUP).committed.get(place, 0)
        before, count = self.kills_at.get(request.id, (position, 0))
        count = count + 1 if position == before else 1
        self.kills_at[request.id] = position, count
        if count > _MOST_KILLED + self.disturbances:
            self.failed(f"{request.id} ended {count} workers at position {position} of {place}")
        if self.plan.restart_s:
            self.loop.call_later(self.plan.restart_s * self.rng.random(), self.replace)

    def place_of(self, named: str) -> TopicPartition:
        """Return the partition of a request."""
        return next(place for (place, _), one in self.asked.items() if one == named)

    def replace(self) -> None:
        if len(self.members) < 4:
            self.join()

    def note_outcomes(self, records: Sequence[ProducerRecord]) -> None:
        for record in records:
            headers = dict(record.headers)
            if headers.get("__dlq.errors.stage") == b"crash":
                topic, partition, offset = (headers[f"__dlq.errors.{name}"].decode() for name in _WHERE)
                self.given_up[self.asked[(topic, int(partition)), int(offset)]] += 1
            else:
                self.outcomes.update(_outcomes([record]))

    def note_doubt(self, records: Sequence[ProducerRecord]) -> None:
        """Note that these may be sent twice."""
        self.doubts.update(_outcomes(records))

    def check_commit(self, before: Mapping[TopicPartition, int], positions: Positions) -> None:
        """Nothing is committed past a request without an outcome, and nothing backwards."""
        for place, (offset, _, _) in positions.items():
            committed = before.get(place, 0)
            if offset < committed:
                self.failed(f"{place} was committed back from {committed} to {offset}")
            for one in range(committed, offset):
                named = self.asked.get((place, one))
                if named is not None and not self.outcomes[named]:
                    self.failed(f"{place} was committed to {offset}, past {one}, which has no outcome")

    def check_repeats(self, member: Member) -> None:
        """Whoever takes a partition over repeats at most one window of it."""
        committed = self.broker.group(GROUP).committed
        for place in {one for topic in self.request_topics for one in member.source.partitions(topic)}:
            offsets = range(committed.get(place, 0), self.broker.logs[place].end)
            repeated = [one for one in offsets if self.outcomes[self.asked.get((place, one), "")]]
            if len(repeated) > self.plan.window:
                self.failed(f"{place} has {len(repeated)} outcomes that are not committed: {repeated}")

    def check_outcomes(self) -> None:
        """Every request has an outcome, and not more than it was delivered, or the broker's answer was lost."""
        for where, named in self.asked.items():
            most = self.delivered[where] + self.doubts[named]
            if not 1 <= self.outcomes[named] <= most and not self.failures:
                self.failed(f"{named} at {where} has {self.outcomes[named]} outcomes, and {most} at most")
        for named in self.given_up:
            if not self.kills[named] + self.disturbances:
                self.failed(f"{named} was given up, and has never ended a worker")
        if unknown := set(self.outcomes) - set(self.asked.values()):
            self.failed(f"outcomes that nobody asked for: {unknown}")

    def left(self) -> dict[TopicPartition, tuple[int, int]]:
        """Return what is committed of each partition, and where it ends, of those where that differs."""
        committed = self.broker.group(GROUP).committed
        places = [place for topic in self.request_topics for place in self.broker.partitions(topic)]
        return {
            place: (committed.get(place, 0), self.broker.logs[place].end)
            for place in places
            if committed.get(place, 0) != self.broker.logs[place].end
        }

    def failed(self, why: str) -> None:
        self.failures.append(why)


def simulate(plan: Plan) -> list[str]:
    """Run a plan and return what went wrong."""
    loop = SeededLoop(plan.seed)  # type: ignore[abstract]  # no sockets, processes and threads
    made: list[World] = []

    async def run() -> None:
        world = World(plan)
        made.append(world)
        loop.on_fault = lambda owner, error: _fault(world, owner, error)
        await world.run()

    before = random.getstate()
    random.seed(plan.seed)
    try:
        with quiet():
            loop.run(run())
    except Stalled as error:
        return [*made[0].failures, str(error)]
    finally:
        random.setstate(before)
    return made[0].failures


@contextmanager
def quiet() -> Iterator[None]:
    """Write no log lines."""
    before = PROCESSORS[:]
    PROCESSORS[:] = [_drop]
    try:
        yield
    finally:
        PROCESSORS[:] = before


def _drop(*_: object) -> Any:
    raise structlog.DropEvent


def _fault(world: World, owner: str, error: BaseException) -> None:
    member = next((one for one in world.members if one.name == owner), None)
    if member is not None:
        member.on_fatal(error)


def _outcomes(records: Sequence[ProducerRecord]) -> Iterator[str]:
    """Yield by what name the request of each of these outcomes is known; events and requests have none."""
    for record in records:
        if ".events" in record.topic or ".requests." in record.topic:
            continue
        headers = dict(record.headers)
        if ".dlq." in record.topic:
            yield "/".join(headers[f"__dlq.errors.{name}"].decode() for name in _WHERE)
        else:
            yield headers["ce_id"].decode()
