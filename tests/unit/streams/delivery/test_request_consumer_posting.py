"""The request_consumer's quick path: results that are posted, and what follows where they are refused."""

from __future__ import annotations

import pytest
from aiokafka.errors import KafkaTimeoutError, MessageSizeTooLargeError

from tests.unit.streams.consumer_rig import Rig, request
from tests.unit.streams.received_messages import message


@pytest.mark.logs_errors("message_put_aside")
async def test_a_quick_result_that_cannot_be_told_for_what_is_in_it_is_a_dead_letter() -> None:
    rig = Rig(publish_error=ValueError("odd"))
    rig.quick = {"r1"}
    rig.post = lambda *_, **__: 1 / 0  # type: ignore[method-assign, assignment]
    rig.take(0, request(id="r1"))
    rig.finish_quick()
    await rig.settle()
    assert (rig.journal, rig.stages) == (["dead letter 0", "position 1"], ["outcome"])
    assert rig.fatal == []


async def test_a_request_whose_way_is_clear_is_acked_when_its_result_is_on_the_broker() -> None:
    rig = Rig()
    rig.quick = {"r1"}
    rig.take(0, request(id="r1"))
    await rig.settle()
    assert (rig.journal, rig.tracker.in_flight) == ([], 1)
    rig.finish_quick()
    assert rig.journal == ["posted r1", "position 1"]
    assert rig.tracker.in_flight == 0


async def test_quick_requests_count_in_the_window_and_are_acked_in_order() -> None:
    rig = Rig(max_in_flight=2)
    rig.quick = {"r0", "r1", "r2"}
    rig.take_all([message(n, request(id=f"r{n}")) for n in range(3)])
    await rig.settle()
    assert len(rig.started) == 2
    rig.started.reverse()
    rig.finish_quick()
    await rig.settle()
    assert (rig.journal, len(rig.started)) == (["posted r1", "position None"], 1)
    rig.finish_quick()
    rig.commit()
    await rig.settle()
    assert rig.journal[2:] == ["posted r0", "position 2"]
    assert len(rig.started) == 1


async def test_a_quick_result_that_the_broker_refuses_is_published_by_the_way_that_knows_what_to_do() -> None:
    rig = Rig()
    rig.quick, rig.post_error = {"r1"}, MessageSizeTooLargeError()
    rig.take(0, request(id="r1"))
    rig.finish_quick()
    assert rig.tracker.in_flight == 1
    await rig.settle()
    assert rig.journal == ["result r1", "position 1"]


async def test_a_quick_result_that_is_too_large_to_be_posted_is_published_by_the_other_way() -> None:
    rig = Rig()
    rig.quick, rig.is_too_large = {"r1"}, True
    rig.take(0, request(id="r1"))
    rig.finish_quick()
    await rig.settle()
    assert rig.journal == ["result r1", "position 1"]


@pytest.mark.logs_errors("outcome_not_published")
async def test_a_quick_result_that_cannot_be_published_at_all_is_fatal_and_stays_unacked() -> None:
    rig = Rig(publish_error=KafkaTimeoutError())
    rig.quick, rig.post_error = {"r1"}, KafkaTimeoutError()
    rig.take(0, request(id="r1"))
    rig.finish_quick()
    await rig.settle()
    assert [type(error) for error in rig.fatal] == [KafkaTimeoutError]
    assert rig.tracker.in_flight == 1


async def test_a_result_for_a_reply_topic_is_never_posted() -> None:
    rig = Rig()
    rig.quick = {"r1"}
    rig.take(0, request(id="r1", reply_to="replies.a"))
    rig.finish_quick()
    await rig.settle()
    assert rig.reply_topics == ["replies.a"]
