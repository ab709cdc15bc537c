"""The delivery core holds in a thousand runs, and the simulation finds the faults that it is for."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from streams.delivery.crash_guard import CrashGuard
from streams.delivery.offsets import OffsetTracker
from streams.delivery.port import DeliveryReport, Fetched, ProducerRecord, Record
from streams.delivery.producer import BatchingProducer
from streams.delivery.stream import Stream
from tests.simulation.plan import Plan
from tests.simulation.run import failing, shrink
from tests.simulation.workers import Source
from tests.simulation.world import simulate

SEEDS = range(1000)
SEEDS_OF_A_FAULT = range(600)
"""So many runs find each fault below; most are found within fifty."""


@pytest.mark.parametrize("first", SEEDS[::100])
def test_every_request_has_its_outcome_whatever_happens_to_the_workers(first: int) -> None:
    assert [simulate(Plan.of(seed)) for seed in failing(range(first, first + 100))] == []


def test_a_seed_always_makes_the_same_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.simulation.workers.Source", OvertakenByASeek)
    [seed, *_] = failing(SEEDS_OF_A_FAULT)
    assert simulate(Plan.of(seed)) == simulate(Plan.of(seed)) != []


class OvertakenByASeek(Source):
    """Lets a fetch of the generation before move the positions of this one."""

    def _deliver(self, generation: int, readings: Any, brought: Any) -> list[Fetched]:
        if generation == self._generation:
            return super()._deliver(generation, readings, brought)
        for place, _, end in brought:
            if place in self._readings:
                self._readings[place].position = end
        return []


class PastTheUnfinished(OffsetTracker):
    """Has committed what is done, though something before it is not."""

    def done(self, message: Record) -> None:
        super().done(message)
        assert message.account is not None
        message.account.position = max(message.account.position, message.offset + 1)


class BeforeTheBrokerHasIt(BatchingProducer):
    """Says that records have arrived when they are only on their way."""

    def post(self, records: Sequence[ProducerRecord], delivery: DeliveryReport) -> None:
        super().post(records, delivery)
        for record in records:
            record.delivery = None
            delivery.answered(record, None)


class WaitsTooLate(OffsetTracker):
    """Begins to wait for room a moment after it has looked: what made room meanwhile wakes nobody."""

    async def progress(self) -> None:
        await asyncio.sleep(0)
        await super().progress()


class NoLimit(OffsetTracker):
    """Runs ahead of the commits without a bound."""

    def __init__(self, *, window: int, **options: Any) -> None:
        super().__init__(window=4 * window + 4, **options)


class NoGuard(CrashGuard):
    """Has a request run again however many workers it ended."""

    def room(self, fetched: Fetched, start: int) -> int:
        return len(fetched.records) - start


class NotAlone(CrashGuard):
    """Blames a request for what others that run meanwhile have done."""

    def _is_held_up(self, caution: Any) -> bool:
        return False


FAULTS = [
    ("tests.simulation.workers.Source", OvertakenByASeek),
    ("streams.delivery.stream.OffsetTracker", PastTheUnfinished),
    ("streams.delivery.stream.BatchingProducer", BeforeTheBrokerHasIt),
    ("streams.delivery.stream.OffsetTracker", WaitsTooLate),
    ("streams.delivery.stream.OffsetTracker", NoLimit),
    ("streams.delivery.stream.CrashGuard", NoGuard),
    ("streams.delivery.stream.CrashGuard", NotAlone),
]


@pytest.mark.parametrize(("name", "fault"), FAULTS, ids=lambda value: getattr(value, "__name__", ""))
def test_a_fault_that_was_put_in_is_found(name: str, fault: type, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(name, fault)
    seed = next((seed for seed in SEEDS_OF_A_FAULT if simulate(Plan.of(seed))), None)
    assert seed is not None, "no run has failed"


class HidesItsEnd(Stream):
    """Says that it has not ended at its requests while they still run."""

    async def drain(self, within_s: float | None = None) -> None:
        await self.withdraw()
        await super().drain(within_s)


def restarting(seed: int) -> Plan:
    """Draw a run in which requests take long to end a worker, and another joins in its place."""
    plan = Plan.of(seed)
    members = max(2, plan.members)
    return replace(plan, members=members, poison_rate=0.05, dying_s=12.0, restart_s=8.0)


def test_requests_that_end_workers_are_given_up_while_others_join() -> None:
    assert [plan for plan in map(restarting, range(30)) if simulate(plan)] == []


def test_a_worker_that_hides_its_end_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.simulation.workers.Stream", HidesItsEnd)
    assert any(simulate(restarting(seed)) for seed in range(100))


def test_a_plan_that_fails_is_made_as_small_as_it_fails() -> None:
    def fails(plan: Plan) -> bool:
        return plan.requests >= 5 and any(event.kind == "crash" for event in plan.events)

    plan = next(plan for plan in map(Plan.of, SEEDS) if fails(plan) and len(plan.events) > 3)
    small = shrink(plan, fails)
    assert (small.requests, small.members, small.tasks, small.window) == (5, 1, 1, 1)
    assert [event.kind for event in small.events] == ["crash"]
