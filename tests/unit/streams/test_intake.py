"""The intake: one outcome per message, and the ack only after it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import pytest
from aiokafka.errors import KafkaTimeoutError, MessageSizeTooLargeError

from engines.results import success_result
from handlers.errors import InferenceError
from streams.acks import OrderedAcker, Received
from streams.intake import Intake
from streams.messages import Request, encode
from streams.outbox import Delivery, Outgoing
from streams.pipeline import Pipeline
from streams.publishing import Publisher
from streams.quick_path import Admitted, OnResult, QuickPath

VALID = {"task": "asr", "engine": "e", "model_name": "m", "data": {}}


@dataclass
class Record:
    offset: int
    value: bytes | None
    key: bytes | None = None
    headers: list[tuple[str, bytes]] = field(default_factory=list)
    topic: str = "inference.requests.asr"
    partition: int = 0
    timestamp: int = 0


class Acker(OrderedAcker):
    """Notes what is acked."""

    def __init__(self, journal: list[str], window: int) -> None:
        super().__init__(window=window)
        self.journal = journal

    def done(self, message: Received) -> None:
        super().done(message)
        position = self.positions(message.generation).get((message.record.topic, message.record.partition))
        self.journal.append(f"position {position}")


class Rig:
    """An intake between a pipeline that answers when told and a publisher that notes what it was given."""

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
        self.started: list[tuple[Request, OnResult]] = []
        self.post_error: Exception | None = None
        self.is_too_large = False
        self.queue_s: list[float] = []
        self.dead_letter_error: Exception | None = None
        self.generation = 1
        self.acker = Acker(self.journal, max_in_flight)
        self.intake = Intake(
            pipeline=cast(Pipeline, self),
            quick_path=cast(QuickPath, self),
            publisher=cast(Publisher, self),
            acker=self.acker,
            is_current=lambda generation: generation == self.generation,
            worker="w1",
            on_fatal=self.fatal.append,
        )

    def commit(self) -> None:
        self.acker.committed(self.generation, self.acker.positions(self.generation).items())

    async def answer(self, request: Request, *, queue_s: float) -> dict[str, Any]:
        self.requests.append(request)
        self.queue_s.append(queue_s)
        if request.id in self.gates:
            await self.gates[request.id].wait()
        return answer_to(request)

    def start(self, request: Request, queue_s: float, admitted: Admitted, on_result: OnResult) -> bool:
        if request.id in self.quick:
            self.started.append((request, on_result))
        return request.id in self.quick

    def finish_quick(self) -> None:
        request, on_result = self.started.pop(0)
        self.requests.append(request)
        on_result(answer_to(request))

    def post(self, result: dict[str, Any], *, delivery: Delivery, **_: Any) -> bool:
        if self.is_too_large:
            return False
        if self.post_error is None:
            self.journal.append(f"posted {result['id']}")
        else:
            delivery.refused = (Outgoing("results", None, encode(result), []),)
        delivery.ended(self.post_error)
        return True

    def allows(self, reply_to: str) -> bool:
        return reply_to.startswith("replies.")

    async def result(self, result: dict[str, Any], *, reply_to: str | None, **_: Any) -> None:
        if self.publish_error is not None:
            raise self.publish_error
        self.journal.append(f"result {result['id']}")
        self.results.append(result)
        self.reply_topics.append(reply_to)

    async def refused(self, records: Sequence[Outgoing], **_: Any) -> None:
        [record] = records
        await self.result(json.loads(record.value or b""), reply_to=None)

    async def dead_letter(self, origin: Record, *, task: str, stage: str, error: InferenceError) -> None:
        if self.dead_letter_error is not None:
            raise self.dead_letter_error
        self.journal.append(f"dead letter {origin.offset}")
        self.dead_letters.append(error)
        self.stages.append(stage)

    def take(self, offset: int, value: bytes | None, **changes: Any) -> None:
        self.take_all([Record(offset, value, **changes)])

    def take_all(self, records: list[Record]) -> None:
        self.intake.take([Received(record, self.generation) for record in records], "asr")

    async def settle(self) -> None:
        for _ in range(20):
            await asyncio.sleep(0)


def answer_to(request: Request) -> dict[str, Any]:
    return success_result(
        result={},
        id=request.id,
        task=request.task,
        engine=request.engine,
        model_name=request.model_name,
        processing_s=0.0,
    )


def request(**changes: object) -> bytes:
    return json.dumps(VALID | changes).encode()


async def test_a_message_is_acked_only_after_its_result_is_published() -> None:
    rig = Rig()
    rig.take(0, request(id="r1"))
    await rig.settle()
    assert rig.journal == ["result r1", "position 1"]
    assert rig.intake.in_flight == 0


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


async def test_a_slow_message_holds_back_acks_but_not_the_work_behind_it() -> None:
    rig = Rig()
    rig.gates["slow"] = asyncio.Event()
    rig.take(0, request(id="slow"))
    rig.take(1, request(id="quick"))
    await rig.settle()
    assert rig.journal == ["result quick", "position None"]
    rig.gates["slow"].set()
    await rig.settle()
    assert rig.journal[2:] == ["result slow", "position 2"]


async def test_no_more_than_the_window_is_taken_before_what_was_answered_is_committed() -> None:
    rig = Rig(max_in_flight=2)
    rig.gates["slow"] = asyncio.Event()
    rig.take(0, request(id="slow"))
    rig.take(1, request(id="quick"))
    rig.take(2, request(id="third"))
    await rig.settle()
    rig.commit()
    await rig.settle()
    assert len(rig.requests) == 2
    rig.gates["slow"].set()
    await rig.settle()
    assert rig.journal[-1] == "position 2"
    assert len(rig.requests) == 2
    rig.commit()
    await rig.settle()
    assert rig.journal[-1] == "position 3"


async def test_a_stuck_message_stops_neither_other_topics_nor_other_partitions_nor_those_in_one_list_with_it() -> (
    None
):
    rig = Rig(max_in_flight=4)
    rig.gates["stuck"] = asyncio.Event()
    stuck = [Record(n, request(id=f"r{n}" if n else "stuck")) for n in range(20)]
    beside = [Record(n, request(id=f"beside{n}"), partition=1) for n in range(20)]
    elsewhere = [Record(n, request(id=f"elsewhere{n}"), topic="inference.requests.other") for n in range(20)]
    rig.take_all(stuck + beside)
    rig.take_all(elsewhere)
    for _ in range(10):
        await rig.settle()
        rig.commit()
    assert rig.acker.held_back == {("inference.requests.asr", 0)}
    assert sorted(asked.id or "" for asked in rig.requests) == sorted(
        ["stuck", "r1", "r2", "r3"] + [f"{name}{n}" for name in ("beside", "elsewhere") for n in range(20)]
    )
    rig.gates["stuck"].set()
    for _ in range(10):
        await rig.settle()
        rig.commit()
    assert [asked.id for asked in rig.requests if asked.id and asked.id[0] == "r"] == [
        f"r{n}" for n in range(1, 20)
    ]
    assert (len(rig.requests), rig.acker.uncommitted, rig.acker.held_back) == (60, 0, set())


async def test_messages_that_all_take_long_leave_room_for_those_of_other_partitions() -> None:
    rig = Rig(max_in_flight=4)
    for n in range(8):
        rig.gates[f"slow{n}"] = asyncio.Event()
    rig.take_all([Record(n, request(id=f"slow{n}")) for n in range(8)])
    rig.take_all([Record(n, request(id=f"quick{n}"), partition=1) for n in range(8)])
    for _ in range(10):
        await rig.settle()
        rig.commit()
    assert [result["id"] for result in rig.results] == [f"quick{n}" for n in range(8)]
    assert len(rig.requests) == 12


async def test_what_comes_behind_messages_that_are_held_back_waits_behind_them() -> None:
    rig = Rig(max_in_flight=1)
    rig.take_all([Record(n, request(id=f"r{n}")) for n in range(2)])
    await rig.settle()
    rig.commit()  # there is room, and r1 has not taken it yet
    rig.take_all([Record(n, request(id=f"r{n}")) for n in range(2, 4)])
    for _ in range(5):
        await rig.settle()
        rig.commit()
    assert [asked.id for asked in rig.requests] == [f"r{n}" for n in range(4)]


async def test_a_partition_that_comes_back_goes_on_with_what_was_fetched_since() -> None:
    rig = Rig(max_in_flight=1)
    rig.gates["slow"] = asyncio.Event()
    rig.take_all([Record(0, request(id="slow")), Record(1, request(id="late"))])
    await rig.settle()
    rig.generation = 2
    rig.acker.forget_all_but(2)
    rig.take_all([Record(0, request(id="again")), Record(1, request(id="late"))])
    rig.gates["slow"].set()
    for _ in range(5):
        await rig.settle()
        rig.commit()
    assert [asked.id for asked in rig.requests] == ["slow", "again", "late"]
    assert (rig.acker.uncommitted, rig.acker.held_back) == (0, set())


async def test_a_fault_while_messages_are_held_back_is_fatal() -> None:
    rig = Rig(max_in_flight=1)
    rig.take_all([Record(0, request(id="r0")), Record(1, request(id="r1"))])
    rig.acker.release = lambda _: 1 / 0  # type: ignore[method-assign, assignment]
    await rig.settle()
    rig.commit()
    await rig.settle()
    assert [type(error) for error in rig.fatal] == [ZeroDivisionError]


async def test_closing_leaves_what_is_held_back_to_the_broker() -> None:
    rig = Rig(max_in_flight=1)
    rig.take_all([Record(0, request(id="r0")), Record(1, request(id="r1"))])
    await rig.settle()
    await rig.intake.close()
    rig.commit()
    await rig.settle()
    assert [asked.id for asked in rig.requests] == ["r0"]


async def test_messages_that_were_handed_out_again_while_they_waited_are_not_taken() -> None:
    rig = Rig(max_in_flight=1)
    rig.gates["slow"] = asyncio.Event()
    rig.take_all([Record(0, request(id="slow")), Record(1, request(id="late")), Record(2, request())])
    await rig.settle()
    rig.gates["slow"].set()
    await rig.settle()
    rig.generation = 2
    rig.acker.forget_all_but(2)
    await rig.settle()
    assert [asked.id for asked in rig.requests] == ["slow"]
    assert rig.intake.in_flight == 0


async def test_a_broker_that_takes_no_outcome_is_fatal_and_the_message_stays_unacked() -> None:
    rig = Rig(publish_error=KafkaTimeoutError("broker gone"))
    rig.take(0, request(id="r1"))
    await rig.settle()
    assert [str(error) for error in rig.fatal] == ["KafkaTimeoutError: broker gone"]
    assert rig.journal == []
    assert rig.intake.in_flight == 1


@pytest.mark.parametrize("error", [MessageSizeTooLargeError(), ValueError("odd"), RecursionError()])
@pytest.mark.parametrize("value", [request(), b'{"bogus": 1}'], ids=["answer", "refusal"])
async def test_an_outcome_that_cannot_be_told_for_what_is_in_it_is_a_dead_letter(
    value: bytes, error: Exception
) -> None:
    rig = Rig(publish_error=error)
    rig.take(0, value)
    await rig.settle()
    assert (rig.journal, rig.stages) == (["dead letter 0", "position 1"], ["outcome"])
    assert rig.fatal == []


async def test_a_quick_result_that_cannot_be_told_for_what_is_in_it_is_a_dead_letter() -> None:
    rig = Rig(publish_error=ValueError("odd"))
    rig.quick = {"r1"}
    rig.post = lambda *_, **__: 1 / 0  # type: ignore[method-assign, assignment]
    rig.take(0, request(id="r1"))
    rig.finish_quick()
    await rig.settle()
    assert (rig.journal, rig.stages) == (["dead letter 0", "position 1"], ["outcome"])
    assert rig.fatal == []


async def test_a_dead_letter_that_the_broker_does_not_take_is_fatal_and_the_message_stays_unacked() -> None:
    rig = Rig(publish_error=ValueError("odd"))
    rig.dead_letter_error = MessageSizeTooLargeError()
    rig.take(0, request(id="r1"))
    rig.take(1, b"no json")
    await rig.settle()
    assert [type(error) for error in rig.fatal] == [MessageSizeTooLargeError] * 2
    assert (rig.journal, rig.intake.in_flight) == ([], 2)


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
    rig.intake._wall_clock = lambda: 100.0
    rig.take_all([Record(n, request(), timestamp=time) for n, time in enumerate((-1, 99_000, 101_000))])
    await rig.settle()
    assert rig.queue_s == [0.0, 1.0, 0.0]


async def test_closing_abandons_what_is_in_flight_unacked() -> None:
    rig = Rig()
    rig.gates["slow"] = asyncio.Event()
    rig.take(0, request(id="slow"))
    await rig.settle()
    await rig.intake.close()
    assert rig.journal == []


async def test_a_request_whose_way_is_clear_is_acked_when_its_result_is_on_the_broker() -> None:
    rig = Rig()
    rig.quick = {"r1"}
    rig.take(0, request(id="r1"))
    await rig.settle()
    assert (rig.journal, rig.intake.in_flight) == ([], 1)
    rig.finish_quick()
    assert rig.journal == ["posted r1", "position 1"]
    assert rig.intake.in_flight == 0


async def test_quick_requests_count_in_the_window_and_are_acked_in_order() -> None:
    rig = Rig(max_in_flight=2)
    rig.quick = {"r0", "r1", "r2"}
    rig.take_all([Record(n, request(id=f"r{n}")) for n in range(3)])
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
    assert rig.intake.in_flight == 1
    await rig.settle()
    assert rig.journal == ["result r1", "position 1"]


async def test_a_quick_result_that_is_too_large_to_be_posted_is_published_by_the_other_way() -> None:
    rig = Rig()
    rig.quick, rig.is_too_large = {"r1"}, True
    rig.take(0, request(id="r1"))
    rig.finish_quick()
    await rig.settle()
    assert rig.journal == ["result r1", "position 1"]


async def test_a_quick_result_that_cannot_be_published_at_all_is_fatal_and_stays_unacked() -> None:
    rig = Rig(publish_error=KafkaTimeoutError())
    rig.quick, rig.post_error = {"r1"}, KafkaTimeoutError()
    rig.take(0, request(id="r1"))
    rig.finish_quick()
    await rig.settle()
    assert [type(error) for error in rig.fatal] == [KafkaTimeoutError]
    assert rig.intake.in_flight == 1


async def test_a_request_with_a_reply_topic_never_takes_the_quick_path() -> None:
    rig = Rig()
    rig.quick = {"r1"}
    rig.take(0, request(id="r1", reply_to="replies.a"))
    await rig.settle()
    assert rig.reply_topics == ["replies.a"]


async def test_a_message_that_nobody_can_read_becomes_a_dead_letter_whatever_is_wrong_with_it() -> None:
    rig = Rig()
    broken = cast(list[tuple[str, bytes]], [("ce_id", 7)])
    rig.take_all([Record(0, request(), headers=broken), Record(1, request(id="r1"))])
    await rig.settle()
    assert rig.journal == ["dead letter 0", "position 1", "result r1", "position 2"]
    assert [error.code for error in rig.dead_letters] == ["INTERNAL_ERROR"]


async def test_a_fault_on_the_way_in_is_a_dead_letter_rather_than_the_loss_of_a_message() -> None:
    rig = Rig()
    rig.start = lambda *_: 1 / 0  # type: ignore[method-assign, assignment]
    rig.take(0, request())
    await rig.settle()
    assert (rig.journal, rig.stages) == (["dead letter 0", "position 1"], ["intake"])
    assert (rig.fatal, rig.intake.in_flight) == ([], 0)
