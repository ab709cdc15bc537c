"""Members of a group come, leave and die at any step of each other's rebalances: no record is lost.

Each member is aiokafka's own consumer with our source and tracker; brokers, delays and time are made up, from a seed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, cast

import aiokafka.abc
import pytest

from streams.delivery.offsets import OffsetTracker
from streams.delivery.port import Fetched, PositionLost, Record, TopicPartition
from streams.faust.positions import PartitionReader
from streams.kafka.aiokafka_internals import ConsumerClosing
from streams.settings import KafkaSettings
from tests.unit.streams.fake_brokers import SESSION_S, Brokers, consumer_of
from tests.unit.streams.virtual_time import virtual_time

PARTITIONS = {"requests": 8, "others": 3}
SEEDS = range(int(os.environ.get("REBALANCE_SEEDS", "25")))
DELAYS = (0.0, 0.0, 0.0, 0.001, 0.02, 0.1, 0.4)


class Member(aiokafka.abc.ConsumerRebalanceListener):  # type: ignore[misc]
    """One worker, but for Faust: its steps are the same, with pauses between them."""

    def __init__(self, group: Simulation) -> None:
        self.group = group
        self.pause = group.pause
        self.tracker = OffsetTracker(window=40)
        self.source = PartitionReader(KafkaSettings(session_timeout_s=SESSION_S, heartbeat_interval_s=0.1))
        self.consumer = consumer_of(group.brokers)
        self.generation: int | None = None
        self.queue: asyncio.Queue[Fetched] = asyncio.Queue()
        self.tasks: set[asyncio.Task[None]] = set()
        self.is_stopping = False

    def run(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self.tasks.add(task)

        def ended(task: asyncio.Task[None]) -> None:
            self.tasks.discard(task)
            if not task.cancelled() and task.exception() is not None:
                self.group.faults.append(cast(BaseException, task.exception()))

        task.add_done_callback(ended)

    async def start(self) -> None:
        await self.consumer.start()
        self.source.attach(self.consumer)
        self.consumer.subscribe(list(PARTITIONS), listener=self)
        for topic in PARTITIONS:
            self.run(self.follow(topic))
        self.run(self.work())
        self.run(self.commit_now_and_then())

    def on_partitions_revoked(self, revoked: Iterable[Any]) -> Any:
        self.source.close()
        return self.revoked()

    async def revoked(self) -> None:
        await self.pause("revoked")
        self.generation = None
        await self.tracker.drained()
        await self.pause("drained")
        await self.commit()
        await self.pause("committed")

    async def on_partitions_assigned(self, assigned: Iterable[Any]) -> None:
        await self.pause("assigned")
        try:
            generation = await self.source.begin()
        except ConsumerClosing:
            return
        await self.pause("sought")
        self.tracker.forget_all()
        self.run(self.resume(generation))

    async def resume(self, generation: int) -> None:
        await self.pause("resumed")
        # As the consumer does: a rebalance that began meanwhile has closed it.
        if self.source._is_open and self.source._assignment and (self.source._assignment.generation == generation):
            self.generation = generation

    async def follow(self, topic: str) -> None:
        partitions = {(topic, number) for number in range(PARTITIONS[topic])}
        while True:
            generation = self.generation
            if generation is None:
                await asyncio.sleep(0.01)
                continue
            wanted = partitions - set(self.tracker.held_back)
            try:
                await self.source.deliver(generation, wanted, 20, 0.2, self.hand_over)
            except ConsumerClosing:
                return
            await self.pause("fetched")

    def hand_over(self, fetched: list[Fetched]) -> None:
        for one in fetched:
            self.queue.put_nowait(one)

    async def work(self) -> None:
        while True:
            fetched = await self.queue.get()
            await self.pause("taken")
            started = 0
            while fetched.generation == self.generation:
                if started == 0:
                    self.tracker.enter(fetched)
                count = self.tracker.track(fetched, started, len(fetched.records))
                for record in fetched.records[started : started + count]:
                    self.run(self.answer(record))
                started += count
                if started == len(fetched.records):
                    break
                await self.tracker.progress()

    async def answer(self, record: Record) -> None:
        await self.pause("answered")
        self.group.answered[(record.topic, record.partition), record.offset] += 1
        self.tracker.done(record)

    async def commit_now_and_then(self) -> None:
        while True:
            await asyncio.sleep(0.1)
            await self.commit()

    async def commit(self) -> None:
        due = self.tracker.positions()
        if not due:
            return
        answers = await self.source.commit(due)
        self.tracker.committed({place: due[place] for place, code in answers.items() if code == 0})
        self.tracker.give_up({place: due[place] for place in due.keys() - answers.keys()})

    async def leave(self) -> None:
        self.is_stopping = True
        self.source.close()
        self.generation = None
        await self.tracker.drained()
        await self.commit()
        await self.source.stop()
        await self.consumer.stop()
        await self.end_tasks()

    async def die(self) -> None:
        """Stop at this very moment; the group hears of it when the session has ended."""
        self.is_stopping = True
        self.consumer._client.is_dead = True
        await self.end_tasks()
        coordinator = self.consumer._coordinator
        for task in (
            coordinator._coordination_task,
            coordinator._heartbeat_task,
            coordinator._commit_refresh_task,
        ):
            if task is not None:
                task.cancel()
                await asyncio.wait([task])
        await self.source.stop()
        await self.consumer._fetcher.close()
        self.consumer._closed = True

    async def end_tasks(self) -> None:
        tasks = list(self.tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class Simulation:
    """A group whose members change while records come."""

    def __init__(self, seed: int, make: Callable[[Simulation], Member] = Member) -> None:
        self.rng = random.Random(seed)
        self.brokers = Brokers(PARTITIONS, self.pause)
        self.brokers.on_commit = self.check_commit
        self.answered: Counter[tuple[TopicPartition, int]] = Counter()
        self.faults: list[BaseException] = []
        self.passed: list[tuple[TopicPartition, int]] = []
        self.make = make
        self.sent: set[tuple[TopicPartition, int]] = set()
        self.slow = {
            step: self.rng.choice(DELAYS) for step in ("fetched", "answered", "FetchRequest answered", "resumed")
        }

    async def pause(self, step: str) -> None:
        """Wait: for no time, for that of this step in this run, or for any."""
        for _ in range(self.rng.randrange(3)):
            await asyncio.sleep(0)
        if delay := self.rng.choice((0.0, self.slow.get(step, 0.0), self.rng.choice(DELAYS))):
            await asyncio.sleep(delay * self.rng.random())

    def check_commit(self, place: TopicPartition, offset: int) -> None:
        before = self.brokers.committed.get(place, 0)
        behind = ((place, one) for one in range(before, offset))
        self.passed += [one for one in behind if one in self.sent and not self.answered[one]]

    async def run(self) -> None:
        members: list[Member] = []
        dying: list[asyncio.Task[None]] = []
        producing = asyncio.create_task(self.produce())
        expiring = asyncio.create_task(self.expire())
        for _ in range(14):
            await asyncio.sleep(self.rng.choice((0.05, 0.3, 1.0, 3.0)) * self.rng.random())
            act = self.rng.choice(("join", "join", "leave", "die"))
            if act == "join" and len(members) < 4:
                member = self.make(self)
                await member.start()
                members.append(member)
            elif members:
                member = members.pop(self.rng.randrange(len(members)))
                dying.append(asyncio.create_task(member.die() if act == "die" else member.leave()))
        producing.cancel()
        last = self.make(self)
        await last.start()
        members.append(last)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(120):
                while self.unanswered() or self.lag():
                    if self.faults or self.passed:
                        break
                    await asyncio.sleep(0.1)
        for member in members:
            await member.leave()
        await asyncio.gather(*dying)
        expiring.cancel()

    async def expire(self) -> None:
        while True:
            await asyncio.sleep(0.5)
            self.brokers.group.expire()

    async def produce(self) -> None:
        places = list(self.brokers.logs)
        while True:
            place = self.rng.choice(places)
            log = self.brokers.logs[place]
            count = self.rng.randrange(1, 12)
            self.sent.update((place, offset) for offset in range(log.end, log.end + count))
            log.append(count, skip=self.rng.choice((0, 0, 0, 1, 3)))
            await asyncio.sleep(0.02 * self.rng.random())

    def unanswered(self) -> int:
        return len(self.sent) - len(self.answered)

    def lag(self) -> int:
        committed = self.brokers.committed
        return sum(log.end - committed.get(place, 0) for place, log in self.brokers.logs.items())


def simulate(seed: int, make: Callable[[Simulation], Member] = Member) -> Simulation:
    with virtual_time() as loop:

        async def run() -> Simulation:
            made = Simulation(seed, make)
            await made.run()
            return made

        return loop.run_until_complete(run())


@pytest.mark.parametrize("seed", SEEDS)
def test_every_record_is_answered_and_nothing_is_committed_past_one_that_is_not(seed: int) -> None:
    run = simulate(seed)
    assert (run.faults, run.passed) == ([], [])
    assert len(run.sent) > 500
    assert (run.unanswered(), run.lag()) == (0, 0)


class Hasty(Member):
    """Takes what its source has for whatever generation, as workers did that lost records: some of it is dropped."""

    async def follow(self, topic: str) -> None:
        partitions = {(topic, number) for number in range(PARTITIONS[topic])}
        while True:
            await asyncio.sleep(0.01)
            if assignment := self.source._assignment:
                with contextlib.suppress(ConsumerClosing):
                    await self.source.deliver(assignment.generation, partitions, 20, 0.2, self.hand_over)


def test_a_worker_that_drops_what_it_has_taken_is_stopped_with_the_name_of_the_hole() -> None:
    faults = [fault for seed in range(5) for fault in simulate(seed, Hasty).faults]
    assert faults
    assert all(isinstance(fault, PositionLost) for fault in faults)
    assert "are missing" in str(faults[0])
