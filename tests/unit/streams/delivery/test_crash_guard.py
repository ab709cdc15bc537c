"""A request that ends each worker is found and given up; what else may end a worker is blamed on none."""

from __future__ import annotations

import random
from collections.abc import Iterable

import pytest

from streams.delivery.crash_guard import CrashGuard, CrashNote
from streams.delivery.offsets import OffsetTracker
from streams.delivery.port import Fetched, Position, Record
from tests.unit.streams.received_messages import TOPIC, message

PLACE = (TOPIC, 0)
MAX_CRASHES = 2
MOST_ENDED = 18 + MAX_CRASHES
"""By one request: some (rarely ten) that got something done meanwhile, two by it first in line, one in its group, and
those by it alone."""


class Group:
    """What a group keeps of the partitions of a topic, and what its requests do."""

    def __init__(self, counts: Iterable[int] = (100,), kills: Iterable[tuple[int, int]] = ()) -> None:
        """`counts` are the requests of each partition; `kills` those that end a worker, by partition and offset."""
        self.counts = list(counts)
        self.kills = set(kills)
        self.kept = {(TOPIC, number): Position(0, 0) for number in range(len(self.counts))}
        self.given_up: list[tuple[int, int]] = []
        self.answered: set[tuple[int, int]] = set()
        self.epochs = 0

    @property
    def is_done(self) -> bool:
        return all(self.kept[TOPIC, number].offset == count for number, count in enumerate(self.counts))


class Worker:
    """Runs what its guard lets begin, in an order drawn from a seed; `group` hears of what it commits."""

    def __init__(self, group: Group, rng: random.Random) -> None:
        self.group = group
        self.rng = rng
        self.tracker = OffsetTracker(window=512)
        self.guard = CrashGuard(self.tracker, max_crashes=MAX_CRASHES, window=512)
        self.running: list[Record] = []
        self.begun: list[int] = []
        """How many requests began together."""
        self.lines: list[tuple[Fetched, int]] = []

    def assign(self) -> None:
        """Begin at what the group keeps."""
        self.tracker.forget_all()
        self.guard.forget_all()
        self.lines.clear()
        for number, count in enumerate(self.group.counts):
            offset, _, note = self.group.kept[TOPIC, number]
            self.group.epochs += 1
            records = [message(one, partition=number) for one in range(offset, count)]
            fetched = Fetched(TOPIC, number, 1, self.group.epochs, offset, count, records, True, offset, note)
            self.lines.append((fetched, 0))

    def begin(self) -> None:
        """Begin what may, in each partition."""
        self.rng.shuffle(self.lines)
        for at, (fetched, start) in enumerate(self.lines):
            if start == 0:
                self.tracker.enter(fetched)
            count = self.tracker.track(fetched, start, self.guard.room(fetched, start))
            self.lines[at] = (fetched, start + count)
            self.running += fetched.records[start : start + count]
            self.begun += [count] * bool(count)

    def commit(self) -> None:
        due = self.guard.positions()
        self.group.kept |= due
        self.guard.told(due)
        self.tracker.committed(due)

    def run_one(self) -> bool:
        """Run one of those that have begun; return whether the worker has outlived it."""
        number = self.rng.randrange(min(4, len(self.running)))
        one = self.running[number]
        where = (one.partition, one.offset)
        if one.crashes:
            self.group.given_up.append(where)
        elif where in self.group.kills:
            return False
        del self.running[number]
        self.group.answered.add(where)
        self.tracker.done(one)
        return True

    def forget_running(self) -> None:
        """Finish what runs when the group knows this worker no more."""
        self.tracker.forget_all()
        for one in self.running:
            self.tracker.done(one)
        self.running.clear()

    def live(self, requests: int = 1_000_000) -> bool:
        """Run until all is done, or so many requests are; return whether the worker has not been ended."""
        self.assign()
        while not self.group.is_done and requests:
            self.begin()
            if self.running:
                requests -= 1
                if not self.run_one():
                    return False
            if not self.running or self.rng.random() < 0.3:
                self.commit()
        return True


def workers_that_ended(group: Group, seed: int = 0) -> int:
    rng = random.Random(seed)
    for ended in range(100):
        if Worker(group, rng).live():
            return ended
    raise AssertionError(f"100 workers have ended: {group.kept}")


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("offset", [0, 1, 17, 50, 99])
def test_a_request_that_ends_each_worker_is_given_up_and_no_other(offset: int, seed: int) -> None:
    group = Group(kills=[(0, offset)])
    assert workers_that_ended(group, seed) <= MOST_ENDED
    assert group.given_up == [(0, offset)]
    assert len(group.answered) == 100


@pytest.mark.parametrize("seed", range(20))
def test_requests_of_other_partitions_are_not_blamed(seed: int) -> None:
    kills = [(0, 0), (1, 30), (1, 31), (3, 99)]
    group = Group([100] * 4, kills)
    assert workers_that_ended(group, seed) <= len(kills) * MOST_ENDED
    assert sorted(group.given_up) == kills
    assert len(group.answered) == 400


def test_the_only_request_is_given_up_after_it_ended_workers_alone() -> None:
    group = Group([1], [(0, 0)])
    assert workers_that_ended(group) == 2 + MAX_CRASHES


def test_a_worker_that_stops_or_hands_on_has_not_ended_at_its_requests() -> None:
    group = Group([3])
    for _ in range(10):
        worker = Worker(group, random.Random(0))
        worker.assign()
        worker.begin()
        worker.commit()
        assert CrashNote.of(group.kept[PLACE].note).by
        worker.begin()
        assert worker.running
        worker.guard.withdraw()
        worker.commit()
        assert group.kept[PLACE] == Position(0, group.epochs, "")


def test_one_worker_that_is_killed_makes_nobody_careful() -> None:
    group = Group([100] * 4)
    killed = Worker(group, random.Random(0))
    killed.assign()
    for _ in range(2):
        killed.begin()
        killed.commit()
    successor = Worker(group, random.Random(0))
    assert successor.live()
    assert successor.begun == [100] * 4


def test_a_worker_that_got_something_done_has_not_ended_at_its_requests() -> None:
    group = Group([1000])
    for _ in range(20):
        worker = Worker(group, random.Random(0))
        worker.live(requests=10)
        worker.commit()
    assert max(worker.begun) > 100
    assert not group.given_up


def test_a_request_that_blocks_one_worker_until_the_group_removes_it_is_given_up() -> None:
    group = Group([3], [(0, 1)])
    worker = Worker(group, random.Random(0))
    blocked = 0
    while not worker.live():  # the same process joins again
        worker.forget_running()
        blocked += 1
        assert blocked <= MOST_ENDED
    assert group.given_up == [(0, 1)]


def test_a_worker_that_was_frozen_twice_is_careful_and_blames_none() -> None:
    group = Group([3])
    worker = Worker(group, random.Random(0))
    for _ in range(2):
        worker.assign()
        worker.begin()
        worker.commit()
        worker.begin()
        worker.forget_running()
    assert worker.live()
    assert not group.given_up
    assert group.answered == {(0, 0), (0, 1), (0, 2)}


def test_no_request_begins_before_the_group_has_the_note() -> None:
    worker = Worker(Group(), random.Random(0))
    worker.assign()
    worker.begin()
    assert not worker.running
    assert worker.tracker.commit_is_due.is_set()
    worker.commit()
    worker.begin()
    assert len(worker.running) == 100


def test_a_note_that_the_broker_refuses_is_left_out() -> None:
    worker = Worker(Group(), random.Random(0))
    worker.assign()
    worker.begin()
    worker.guard.told(worker.guard.positions())
    worker.begin()
    assert len(worker.running) == 100


@pytest.mark.parametrize("text", ["", "something else", "crashes=x by= end=1"])
def test_what_is_no_note_says_nothing(text: str) -> None:
    assert CrashNote.of(text) == CrashNote()


@pytest.mark.parametrize("note", [CrashNote(), CrashNote(1), CrashNote(3, "a1", 17), CrashNote(end=5)])
def test_a_note_is_read_as_it_was_written(note: CrashNote) -> None:
    assert CrashNote.of(str(note)) == note
