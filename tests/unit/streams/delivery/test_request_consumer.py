"""The request_consumer: one outcome per message, and the ack only after it."""

from __future__ import annotations

import asyncio
import json
from typing import cast

import pytest
import structlog
from aiokafka.errors import KafkaTimeoutError, MessageSizeTooLargeError

from tests.unit.streams.consumer_rig import VALID, Rig, request
from tests.unit.streams.received_messages import TOPIC, message, offsets_due


async def test_a_message_is_acked_only_after_its_result_is_published() -> None:
    rig = Rig()
    rig.take(0, request(id="r1"))
    await rig.settle()
    assert rig.journal == ["result r1", "position 1"]
    assert rig.tracker.in_flight == 0


async def test_a_request_without_id_gets_one_from_its_place_in_the_log() -> None:
    rig = Rig()
    rig.take(7, request())
    await rig.settle()
    assert rig.results[0]["id"] == "inference.requests.asr/0/7"


async def test_a_request_without_id_takes_that_of_its_cloudevent() -> None:
    rig = Rig()
    rig.take(7, request(), headers=[("ce_id", b"event-1")])
    await rig.settle()
    assert rig.results[0]["id"] == "event-1"


async def test_undecodable_bytes_and_empty_values_become_dead_letters_and_are_acked() -> None:
    rig = Rig()
    rig.take(0, b"\xff\xfe")
    rig.take(1, None)
    await rig.settle()
    assert rig.journal == ["dead letter 0", "position 1", "dead letter 1", "position 2"]
    assert [error.code for error in rig.dead_letters] == ["UNDECODABLE", "UNDECODABLE"]


async def test_what_no_engine_has_begun_with_is_left_to_the_next_owner_of_its_partition() -> None:
    rig = Rig()
    for offset in range(4):
        rig.gates[f"r{offset}"] = asyncio.Event()
        rig.take(offset, request(id=f"r{offset}"))
    rig.not_begun = {"r1", "r3"}
    await rig.settle()
    rig.gates["r0"].set()
    await rig.settle()
    rig.request_consumer.under_way.give_back()
    drained = asyncio.create_task(rig.tracker.drained())
    await rig.settle()
    rig.gates["r2"].set()
    await rig.settle()
    assert not drained.done()  # r2 would be answered again if r1 was left
    rig.gates["r1"].set()
    await drained
    assert rig.journal == ["result r0", "position 1", "result r2", "position 1", "result r1", "position 3"]
    rig.reassign()
    assert rig.tracker.in_flight == 0
    await rig.close()
    await rig.settle()


async def test_a_worker_that_leaves_starts_on_nothing_and_gives_back_what_came_later() -> None:
    rig = Rig()
    for offset in range(2):
        rig.gates[f"r{offset}"] = asyncio.Event()
        rig.take(offset, request(id=f"r{offset}"))
    rig.not_begun = {"r1"}
    await rig.settle()
    rig.request_consumer.leave()
    rig.take(2, request(id="r2"))
    await rig.settle()
    rig.request_consumer.under_way.give_back()
    rig.gates["r0"].set()
    await rig.tracker.drained()
    await rig.settle()
    assert rig.journal == ["result r0", "position 1"]
    await rig.close()


async def test_what_was_answered_before_the_group_removed_the_worker_does_not_run_again() -> None:
    rig = Rig()
    rig.gates["r2"] = asyncio.Event()
    values = [request(id=f"r{offset}") for offset in range(5)]
    for offset in range(4):
        rig.take(offset, values[offset])
    await rig.settle()
    rig.reassign(0)
    rig.gates["r2"].set()  # its call ends when the group has removed the worker
    await rig.settle()
    assert sorted(one.id for one in rig.requests) == ["r0", "r1", "r2", "r3"]
    for offset in range(5):
        rig.take(offset, values[offset])
    await rig.settle()
    assert [one.id for one in rig.requests][4:] == ["r4"]
    assert offsets_due(rig.tracker) == {(TOPIC, 0): 5}
    assert rig.tracker.unfinished == 0


async def test_another_record_at_the_same_offset_runs() -> None:
    rig = Rig()
    rig.take(0, request(id="r0"))
    await rig.settle()
    rig.reassign(0)
    rig.take(0, request(id="r9"))
    await rig.settle()
    assert [one.id for one in rig.requests] == ["r0", "r9"]


async def test_what_was_committed_runs_again_where_the_group_is_set_back() -> None:
    rig = Rig()
    for _ in range(2):
        rig.take(0, request(id="r0"))
        await rig.settle()
        rig.commit()
        rig.reassign(0)
    assert [one.id for one in rig.requests] == ["r0", "r0"]


async def test_held_back_records_go_on_when_those_before_were_answered_earlier() -> None:
    rig = Rig(max_in_flight=2)
    values = [request(id=f"r{offset}") for offset in range(6)]
    rig.take_all([message(offset, values[offset]) for offset in range(2)])
    await rig.settle()
    rig.reassign(0)
    rig.take_all([message(offset, values[offset]) for offset in range(6)])
    for _ in range(3):
        await rig.settle()
        rig.commit()
    assert [one.id for one in rig.requests] == [f"r{offset}" for offset in range(6)]


@pytest.mark.logs_errors("request_crashes_workers")
async def test_a_request_that_ended_workers_is_told_to_its_caller_kept_and_acked_without_being_run() -> None:
    rig = Rig()
    rig.take(0, request(id="r1"), crashes=2)
    await rig.settle()
    assert rig.journal == ["result r1", "dead letter 0", "position 1"]
    assert rig.results[0]["error"]["code"] == rig.dead_letters[0].code == "WORKER_CRASHED"
    assert "2 workers in a row ended" in rig.dead_letters[0].message
    assert (rig.stages, rig.requests) == (["crash"], [])


async def test_an_invalid_request_gets_a_failure_under_its_own_id() -> None:
    rig = Rig()
    rig.take(0, json.dumps({"id": "r9", "task": "asr", "metadata": {"a": 1}}).encode())
    await rig.settle()
    (result,) = rig.results
    assert (result["id"], result["success"], result["metadata"]) == ("r9", False, {"a": 1})
    assert result["error"]["code"] == "INVALID_REQUEST"
    assert rig.requests == []


async def test_a_request_on_the_topic_of_another_task_is_refused() -> None:
    rig = Rig()
    rig.take(0, request(task="vlm"))
    await rig.settle()
    assert "task 'vlm' does not belong on this topic" in rig.results[0]["error"]["message"]


async def test_reply_to_is_refused_unless_allowed_and_the_refusal_goes_to_the_result_topic() -> None:
    rig = Rig()
    rig.take(0, request(reply_to="secrets"))
    rig.take(1, request(reply_to="replies.a"))
    await rig.settle()
    assert [result["success"] for result in rig.results] == [False, True]
    assert "worker.reply_topics" in rig.results[0]["error"]["message"]
    assert rig.reply_topics == [None, "replies.a"]


async def test_a_broker_that_takes_no_outcome_of_many_is_one_critical_line() -> None:
    rig = Rig(publish_error=KafkaTimeoutError("broker gone"), max_in_flight=100)
    with structlog.testing.capture_logs() as lines:
        for offset in range(100):
            rig.take(offset, request())
        await rig.settle()
    [line] = [line for line in lines if line["log_level"] == "critical"]
    assert (line["event"], line["in_flight"]) == ("outcome_not_published", 100)


@pytest.mark.logs_errors("outcome_not_published")
async def test_a_broker_that_takes_no_outcome_is_fatal_and_the_message_stays_unacked() -> None:
    rig = Rig(publish_error=KafkaTimeoutError("broker gone"))
    rig.take(0, request(id="r1"))
    await rig.settle()
    assert [str(error) for error in rig.fatal] == ["KafkaTimeoutError: broker gone"]
    assert rig.journal == []
    assert rig.tracker.in_flight == 1


@pytest.mark.parametrize("error", [MessageSizeTooLargeError(), ValueError("odd"), RecursionError()])
@pytest.mark.parametrize("value", [request(), b'{"bogus": 1}'], ids=["answer", "refusal"])
@pytest.mark.logs_errors("message_put_aside")
async def test_an_outcome_that_cannot_be_told_for_what_is_in_it_is_a_dead_letter(
    value: bytes, error: Exception
) -> None:
    rig = Rig(publish_error=error)
    rig.take(0, value)
    await rig.settle()
    assert (rig.journal, rig.stages) == (["dead letter 0", "position 1"], ["outcome"])
    assert rig.fatal == []


@pytest.mark.logs_errors("message_put_aside", "outcome_not_published")
async def test_a_dead_letter_that_the_broker_does_not_take_is_fatal_and_the_message_stays_unacked() -> None:
    rig = Rig(publish_error=ValueError("odd"))
    rig.dead_letter_error = MessageSizeTooLargeError()
    rig.take(0, request(id="r1"))
    rig.take(1, b"no json")
    await rig.settle()
    assert [type(error) for error in rig.fatal] == [MessageSizeTooLargeError] * 2
    assert (rig.journal, rig.tracker.in_flight) == ([], 2)


def nested(depth: int) -> bytes:
    return b'{"a":' * depth + b"1" + b"}" * depth


@pytest.mark.parametrize("depth", [300, 900, 990, 1000, 5000, 100_000])
@pytest.mark.parametrize("field", ["metadata", "data", "options"])
@pytest.mark.parametrize("start", [b'{"bogus": 1, ', json.dumps(VALID)[:-1].encode() + b", "])
async def test_no_depth_of_a_message_ends_the_worker(start: bytes, field: str, depth: int) -> None:
    rig = Rig()
    rig.take(0, start + b'"' + field.encode() + b'": ' + nested(depth) + b"}")
    await rig.settle()
    assert (len(rig.results) + len(rig.dead_letters), rig.fatal) == (1, [])
    assert rig.journal[1:] == ["position 1"]


async def test_a_request_whose_metadata_cannot_be_read_is_refused_under_its_own_id() -> None:
    rig = Rig()
    rig.take(0, request(id="r9")[:-1] + b', "metadata": {"a": 1e400}}')
    await rig.settle()
    (result,) = rig.results
    assert (result["id"], result["error"]["code"], result["metadata"]) == ("r9", "INVALID_REQUEST", {})


async def test_an_event_id_too_long_to_be_repeated_everywhere_is_not_taken() -> None:
    rig = Rig()
    rig.take(7, request(), headers=[("ce_id", b"x" * 257)])
    await rig.settle()
    assert rig.results[0]["id"] == "inference.requests.asr/0/7"


async def test_a_record_whose_time_nobody_knows_has_waited_for_nothing() -> None:
    rig = Rig()
    rig.request_consumer._wall_clock = lambda: 100.0
    rig.take_all([message(n, request(), timestamp=time) for n, time in enumerate((-1, 99_000, 101_000))])
    await rig.settle()
    assert rig.queue_s == [0.0, 1.0, 0.0]


async def test_closing_abandons_what_is_in_flight_unacked() -> None:
    rig = Rig()
    rig.gates["slow"] = asyncio.Event()
    rig.take(0, request(id="slow"))
    await rig.settle()
    await rig.request_consumer.close()
    assert rig.journal == []


@pytest.mark.logs_errors("message_put_aside")
async def test_a_message_that_nobody_can_read_becomes_a_dead_letter_whatever_is_wrong_with_it() -> None:
    rig = Rig()
    broken = cast(list[tuple[str, bytes]], [("ce_id", 7)])
    rig.take_all([message(0, request(), headers=broken), message(1, request(id="r1"))])
    await rig.settle()
    assert rig.journal == ["dead letter 0", "position 1", "result r1", "position 2"]
    assert [error.code for error in rig.dead_letters] == ["INTERNAL_ERROR"]


@pytest.mark.logs_errors("message_put_aside")
async def test_a_fault_on_the_way_in_is_a_dead_letter_rather_than_the_loss_of_a_message() -> None:
    rig = Rig()
    rig.start = lambda *_: 1 / 0  # type: ignore[method-assign, assignment]
    rig.take(0, request())
    await rig.settle()
    assert (rig.journal, rig.stages) == (["dead letter 0", "position 1"], ["request_consumer"])
    assert (rig.fatal, rig.tracker.in_flight) == ([], 0)


async def test_a_refusal_is_counted_by_its_code() -> None:
    rig = Rig()
    rig.take(0, request(bogus=1))
    await rig.settle()
    assert rig.statistics.snapshot()["refusals"] == {"INVALID_REQUEST": 1}
