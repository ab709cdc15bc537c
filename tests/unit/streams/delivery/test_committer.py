"""What is committed where a broker refuses: each topic has an outcome of its own, and none is tried without end."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest
from aiokafka import errors

from streams.delivery.committer import Committer
from streams.delivery.offsets import OffsetTracker
from streams.delivery.port import UNKNOWN_OFFSET, Positions, RecordSource, TopicPartition
from tests.unit.streams.received_messages import TOPIC, Fetches, NoGuard, message, track

OTHER_TOPIC = "inference.requests.ocr"
PARTITION, OTHER = (TOPIC, 0), (OTHER_TOPIC, 0)
GONE = errors.UnknownTopicOrPartitionError.errno
PATIENCE_S = 60.0


class Source:
    """Answers commits as told."""

    def __init__(self) -> None:
        self.committed: list[dict[TopicPartition, int]] = []
        self.refusals: dict[str, int] = {}
        """The broker's error code for commits of a topic."""
        self.replaced = False

    async def opened(self) -> int:
        return 1

    async def commit(self, positions: Positions) -> dict[TopicPartition, int]:
        if self.replaced:
            return {}
        self.committed.append({place: one.offset for place, one in positions.items()})
        return {place: self.refusals.get(place[0], 0) for place in positions}


class Rig:
    def __init__(self) -> None:
        self.source = Source()
        self.tracker = OffsetTracker(window=4)
        guard = NoGuard(self.tracker)
        self.committer = Committer(cast(RecordSource, self.source), self.tracker, guard, interval_s=60.0)
        self.fetches = Fetches()

    def track(self, *offsets: int) -> list[Any]:
        """Have messages taken, each of a fetch of its own."""
        made = [message(offset) for offset in offsets]
        for one in made:
            track(self.tracker, self.fetches.of([one]))
        return made


@pytest.fixture
def rig() -> Rig:
    """Two topics, of which one message each is answered and not committed."""
    made = Rig()
    for one in (message(0), message(0, topic=OTHER_TOPIC)):
        track(made.tracker, made.fetches.of([one]))
        made.tracker.done(one)
    return made


@pytest.fixture
def idle() -> Rig:
    """One topic, of which nothing was fetched yet."""
    return Rig()


async def test_a_topic_that_is_gone_is_left_out_and_others_are_committed(rig: Rig) -> None:
    rig.source.refusals[TOPIC] = GONE
    async with asyncio.timeout(PATIENCE_S):
        await rig.committer.commit_all()
    assert rig.tracker.uncommitted == 0
    rig.source.committed.clear()
    assert not await rig.committer.commit()
    assert rig.source.committed == []  # not before its pause has passed


async def test_a_topic_that_is_back_is_committed_again(rig: Rig) -> None:
    rig.source.refusals[TOPIC] = GONE
    await rig.committer.commit()
    rig.source.refusals.clear()
    rig.committer._aside[TOPIC] = (0.0, 1.0)  # as if its pause had passed
    assert await rig.committer.commit()
    assert rig.source.committed[-1] == {PARTITION: 1}
    assert rig.committer._aside == {}


@pytest.mark.parametrize("error", [errors.TopicAuthorizationFailedError, errors.GroupAuthorizationFailedError])
async def test_a_right_that_was_taken_away_holds_up_no_stop_and_is_told_once_a_pause(
    rig: Rig, error: type[errors.BrokerResponseError], capsys: pytest.CaptureFixture[str]
) -> None:
    rig.source.refusals = {TOPIC: error.errno, OTHER_TOPIC: error.errno}
    async with asyncio.timeout(PATIENCE_S):
        await rig.committer.commit_all()
        await rig.committer.commit_all()
    assert rig.tracker.uncommitted == 2
    told = capsys.readouterr().out
    assert told.count("offsets_not_committed") == 2  # one for each topic
    assert "grant READ" in told


async def test_what_was_put_aside_is_tried_once_more_before_a_stop(rig: Rig) -> None:
    rig.source.refusals = dict.fromkeys([TOPIC, OTHER_TOPIC], errors.GroupAuthorizationFailedError.errno)
    async with asyncio.timeout(PATIENCE_S):
        await rig.committer.commit_all()
        tried = len(rig.source.committed)
        await rig.committer.commit_last()
        assert len(rig.source.committed) == tried + 1
        assert rig.tracker.uncommitted == 2
        rig.source.refusals.clear()
        await rig.committer.commit_last()
    assert rig.tracker.uncommitted == 0


async def test_what_others_have_by_now_is_not_committed_again(rig: Rig) -> None:
    rig.source.refusals = dict.fromkeys([TOPIC, OTHER_TOPIC], errors.UnknownMemberIdError.errno)
    async with asyncio.timeout(PATIENCE_S):
        await rig.committer.commit_all()
    assert len(rig.source.committed) == 1


async def test_a_coordinator_that_is_away_is_waited_for(rig: Rig) -> None:
    rig.source.refusals[TOPIC] = errors.RequestTimedOutError.errno
    committing = asyncio.create_task(rig.committer.commit_all())
    async with asyncio.timeout(PATIENCE_S):
        while len(rig.source.committed) < 3:
            await asyncio.sleep(0)
        rig.source.refusals.clear()
        await committing
    assert rig.tracker.uncommitted == 0


async def test_only_what_the_acker_vouches_for_in_this_generation_can_be_committed(idle: Rig) -> None:
    first, second, third = idle.track(3, 4, 5)
    idle.tracker.done(third)
    idle.tracker.done(second)
    assert not await idle.committer.commit()
    idle.tracker.done(first)
    assert await idle.committer.commit()
    idle.tracker.done(*idle.track(6))
    idle.tracker.forget_all()
    assert not await idle.committer.commit()
    assert idle.source.committed == [{PARTITION: 6}]


async def test_the_position_of_a_replaced_log_is_committed_though_it_is_below_the_one_before(
    idle: Rig,
) -> None:
    [old] = idle.track(456)
    idle.tracker.done(old)
    await idle.committer.commit()
    track(idle.tracker, idle.fetches.of([message(0)], epoch=2, committed=UNKNOWN_OFFSET))
    await idle.committer.commit()
    assert idle.source.committed == [{PARTITION: 457}, {PARTITION: 0}]


async def test_a_commit_that_is_due_does_not_wait_for_the_interval(idle: Rig) -> None:
    committing = asyncio.create_task(idle.committer.run())
    made = idle.track(0, 1, 2)
    idle.tracker.done(made[0])
    for _ in range(20):
        await asyncio.sleep(0)
    assert idle.source.committed == []
    idle.tracker.done(made[1])
    async with asyncio.timeout(10):
        while idle.tracker.uncommitted > 1:
            await asyncio.sleep(0)
    assert idle.source.committed == [{PARTITION: 2}]
    committing.cancel()


async def test_what_a_failed_commit_did_not_reach_stays_uncommitted(idle: Rig) -> None:
    idle.source.refusals[TOPIC] = errors.RequestTimedOutError.errno
    [only] = idle.track(0)
    idle.tracker.done(only)
    assert not await idle.committer.commit()
    assert (idle.source.committed, idle.tracker.uncommitted) == ([{PARTITION: 1}], 1)


async def test_a_failed_commit_is_made_up_for_though_nothing_was_acked_since(idle: Rig) -> None:
    [only] = idle.track(0)
    idle.tracker.done(only)
    idle.source.refusals[TOPIC] = errors.RequestTimedOutError.errno
    await idle.committer.commit()
    idle.source.refusals.clear()
    assert await idle.committer.commit()
    assert idle.tracker.uncommitted == 0
    assert not await idle.committer.commit()  # there is nothing left to commit


async def test_whoever_stops_does_not_wait_for_commits_into_a_log_that_was_replaced(idle: Rig) -> None:
    [only] = idle.track(0)
    idle.tracker.done(only)
    idle.source.replaced = True
    async with asyncio.timeout(10):
        await idle.committer.commit_all()
    assert (idle.source.committed, idle.tracker.uncommitted) == ([], 0)
