"""What is committed where a broker refuses: each topic has an outcome of its own, and none is tried without end."""

from __future__ import annotations

import asyncio
import types
from typing import Any, cast

import pytest
from aiokafka import errors
from faust.types import TP

from streams.delivery.offsets import UNKNOWN_OFFSET, TopicPartition
from streams.faust.commits import CommittingThread
from tests.unit.streams.faust.test_consumer import PARTITION, Rig, turns
from tests.unit.streams.received_messages import TOPIC, message

OTHER_TOPIC = "inference.requests.ocr"
OTHER = TP(OTHER_TOPIC, 0)
GONE = errors.UnknownTopicOrPartitionError.errno
PATIENCE_S = 60.0


@pytest.fixture
async def rig() -> Rig:
    """A consumer of two topics, of which one message each is answered and not committed."""
    made = Rig()
    for one in (message(0), message(0, topic=OTHER_TOPIC)):
        made.tracker.track(made.fetches.of([one]))
        made.tracker.done(one)
    return made


@pytest.fixture
async def idle() -> Rig:
    """A consumer of one topic, of which nothing was fetched yet."""
    return Rig()


async def test_a_topic_that_is_gone_is_left_out_and_others_are_committed(rig: Rig) -> None:
    rig.thread.refusals[TOPIC] = GONE
    async with asyncio.timeout(PATIENCE_S):
        await rig.committer.commit_all()
    assert rig.tracker.uncommitted == 0
    assert rig.app.monitor.tp_committed_offsets == {OTHER: 1}
    rig.thread.committed.clear()
    assert not await rig.committer.commit()
    assert rig.thread.committed == []  # not before its pause has passed


async def test_a_topic_that_is_back_is_committed_again(rig: Rig) -> None:
    rig.thread.refusals[TOPIC] = GONE
    await rig.committer.commit()
    rig.thread.refusals.clear()
    rig.committer._aside[TOPIC].until = 0.0  # as if its pause had passed
    assert await rig.committer.commit()
    assert rig.thread.committed[-1] == {PARTITION: 1}
    assert rig.committer._aside == {}


@pytest.mark.parametrize(
    "error", [errors.TopicAuthorizationFailedError, errors.GroupAuthorizationFailedError]
)
async def test_a_right_that_was_taken_away_holds_up_no_stop_and_is_told_once_a_pause(
    rig: Rig, error: type[errors.BrokerResponseError], capsys: pytest.CaptureFixture[str]
) -> None:
    rig.thread.refusals = {TOPIC: error.errno, OTHER_TOPIC: error.errno}
    async with asyncio.timeout(PATIENCE_S):
        await rig.committer.commit_all()
        await rig.committer.commit_all()
    assert rig.tracker.uncommitted == 2
    told = capsys.readouterr().out
    assert told.count("offsets_not_committed") == 2  # one for each topic
    assert "grant READ" in told


async def test_what_was_put_aside_is_tried_once_more_before_a_stop(rig: Rig) -> None:
    rig.thread.refusals = dict.fromkeys([TOPIC, OTHER_TOPIC], errors.GroupAuthorizationFailedError.errno)
    async with asyncio.timeout(PATIENCE_S):
        await rig.committer.commit_all()
        tried = len(rig.thread.committed)
        await rig.committer.commit_last()
        assert len(rig.thread.committed) == tried + 1
        assert rig.tracker.uncommitted == 2
        rig.thread.refusals.clear()
        await rig.committer.commit_last()
    assert rig.tracker.uncommitted == 0


async def test_what_others_have_by_now_is_not_committed_again(rig: Rig) -> None:
    rig.thread.refusals = dict.fromkeys([TOPIC, OTHER_TOPIC], errors.UnknownMemberIdError.errno)
    async with asyncio.timeout(PATIENCE_S):
        await rig.committer.commit_all()
    assert len(rig.thread.committed) == 1


async def test_a_coordinator_that_is_away_is_waited_for(rig: Rig) -> None:
    rig.thread.refusals[TOPIC] = errors.RequestTimedOutError.errno
    committing = asyncio.create_task(rig.committer.commit_all())
    async with asyncio.timeout(PATIENCE_S):
        while len(rig.thread.committed) < 3:
            await asyncio.sleep(0)
        rig.thread.refusals.clear()
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
    idle.open(2)
    assert not await idle.committer.commit()
    assert idle.thread.committed == [{PARTITION: 6}]


async def test_the_position_of_a_replaced_log_is_committed_though_it_is_below_the_one_before(
    idle: Rig,
) -> None:
    [old] = idle.track(456)
    idle.tracker.done(old)
    await idle.committer.commit()
    idle.tracker.track(idle.fetches.of([message(0)], epoch=2, committed=UNKNOWN_OFFSET))
    await idle.committer.commit()
    assert idle.thread.committed == [{PARTITION: 457}, {PARTITION: 0}]


async def test_a_commit_that_is_due_does_not_wait_for_the_interval(idle: Rig) -> None:
    committing = asyncio.create_task(idle.committer.run())
    made = idle.track(0, 1, 2)
    idle.tracker.done(made[0])
    await turns()
    assert idle.thread.committed == []
    idle.tracker.done(made[1])
    async with asyncio.timeout(10):
        while idle.tracker.uncommitted > 1:
            await asyncio.sleep(0)
    assert idle.thread.committed == [{PARTITION: 2}]
    committing.cancel()


async def test_what_a_failed_commit_did_not_reach_stays_uncommitted(idle: Rig) -> None:
    idle.thread.refusals[TOPIC] = errors.RequestTimedOutError.errno
    [only] = idle.track(0)
    idle.tracker.done(only)
    assert not await idle.committer.commit()
    assert (idle.thread.committed, idle.tracker.uncommitted) == ([{PARTITION: 1}], 1)


async def test_a_failed_commit_is_made_up_for_though_nothing_was_acked_since(idle: Rig) -> None:
    [only] = idle.track(0)
    idle.tracker.done(only)
    idle.thread.refusals[TOPIC] = errors.RequestTimedOutError.errno
    await idle.committer.commit()
    idle.thread.refusals.clear()
    assert await idle.committer.commit()
    assert idle.tracker.uncommitted == 0
    assert not await idle.committer.commit()  # there is nothing left to commit
    # By these Faust tells a stream that stands still.
    assert idle.app.monitor.tp_committed_offsets == {PARTITION: 1}


async def test_whoever_stops_does_not_wait_for_commits_into_a_log_that_was_replaced(idle: Rig) -> None:
    [only] = idle.track(0)
    idle.tracker.done(only)
    idle.thread.replaced = True
    async with asyncio.timeout(10):
        await idle.committer.commit_all()
    assert (idle.thread.committed, idle.tracker.uncommitted) == ([], 0)


class Coordinator:
    """Stands for aiokafka's: answers a commit with `codes`, and notes what it is told to do."""

    def __init__(self, codes: dict[str, int]) -> None:
        self.codes = codes
        self.generation, self.member_id, self.group_id = 1, "member", "group"
        self.told: list[str] = []

    async def _send_req(self, request: Any) -> Any:
        topics = [(topic, [(0, code)]) for topic, code in self.codes.items()]
        return types.SimpleNamespace(topics=topics)

    def coordinator_dead(self) -> None:
        self.told.append("coordinator_dead")

    def reset_generation(self) -> None:
        self.told.append("reset_generation")

    def request_rejoin(self) -> None:
        self.told.append("request_rejoin")


async def commit(
    coordinator: Any, offsets: dict[TopicPartition, int], *, present: dict[TopicPartition, int] | None = None
) -> dict[TopicPartition, int]:
    """Commit into epochs of which those at `present` are not over."""
    epochs: dict[TopicPartition, int] = {PARTITION: 7, OTHER: 8}
    thread: Any = types.SimpleNamespace(
        source=types.SimpleNamespace(
            epochs=lambda _: present or epochs, member_generation=1, note=lambda topic: ""
        ),
        _ensure_consumer=lambda: types.SimpleNamespace(_coordinator=coordinator),
        app=types.SimpleNamespace(conf=types.SimpleNamespace(broker_session_timeout=0.2)),
        tp_last_committed_at={},
    )
    return await CommittingThread.commit_once(cast(CommittingThread, thread), offsets, epochs)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (errors.NotCoordinatorForGroupError, ["coordinator_dead"]),
        (errors.UnknownMemberIdError, ["reset_generation"]),
        (errors.IllegalGenerationError, ["reset_generation"]),
        (errors.RebalanceInProgressError, ["request_rejoin"]),
        (errors.GroupLoadInProgressError, []),
        (errors.UnknownTopicOrPartitionError, []),
    ],
)
async def test_a_commit_is_asked_once_and_what_its_codes_call_for_is_begun(
    error: type[errors.BrokerResponseError], told: list[str]
) -> None:
    coordinator = Coordinator({TOPIC: error.errno, OTHER_TOPIC: 0})
    assert await commit(coordinator, {PARTITION: 1, OTHER: 1}) == {PARTITION: error.errno, OTHER: 0}
    assert coordinator.told == told


async def test_an_offset_that_no_waiting_makes_good_is_an_error_that_names_its_partition() -> None:
    coordinator = Coordinator({TOPIC: errors.OffsetMetadataTooLargeError.errno})
    with pytest.raises(errors.OffsetMetadataTooLargeError, match=rf"{TOPIC}\[0\]"):
        await commit(coordinator, {PARTITION: 1})


async def test_a_coordinator_that_never_answers_holds_up_no_commit_for_a_session() -> None:
    class Frozen(Coordinator):
        async def _send_req(self, request: Any) -> Any:
            await asyncio.Future()

    async with asyncio.timeout(PATIENCE_S):
        answers = await commit(Frozen({}), {PARTITION: 1})
    assert answers == {PARTITION: errors.RequestTimedOutError.errno}


async def test_offsets_of_an_earlier_generation_are_not_sent_in_a_later_one() -> None:
    coordinator = Coordinator({})
    coordinator.generation = 2
    assert await commit(coordinator, {PARTITION: 1}) == {PARTITION: errors.IllegalGenerationError.errno}


async def test_offsets_of_a_log_that_was_replaced_are_neither_sent_nor_answered() -> None:
    coordinator = Coordinator({TOPIC: 0, OTHER_TOPIC: 0})
    sent = []
    send = coordinator._send_req

    async def note(request: Any) -> Any:
        sent.append(request)
        return await send(request)

    coordinator._send_req = note  # type: ignore[method-assign]
    answers = await commit(coordinator, {PARTITION: 456, OTHER: 1}, present={PARTITION: 9, OTHER: 8})
    assert answers == {OTHER: 0}
    [request] = sent
    assert [topic for topic, _ in request._topics] == [OTHER_TOPIC]
