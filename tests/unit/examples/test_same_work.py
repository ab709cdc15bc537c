"""The hand-written loop of the stream benchmarks does the product's work: same fields, same headers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import msgspec

from examples.bench import noop
from examples.bench.same_work import answering, passing_on
from streams.kafka.cloudevents import EVENT_TYPE, RESULT_TYPE, BinaryHeaders
from streams.messages import decode_event, decode_result


def record() -> Any:
    return SimpleNamespace(
        topic="requests", partition=0, offset=7, timestamp=1000, key=b"key", value=noop.noop_request(7)
    )


def test_a_value_is_passed_on_as_it_is() -> None:
    assert list(passing_on("results")(record())) == [("results", record().value, b"key", [])]


def test_a_request_is_answered_with_a_result_and_an_event_as_the_product_answers_it() -> None:
    result, event = answering("results", "events")(record())
    assert (result.topic, result.key, event.topic) == ("results", b"key", "events")
    assert result.value is not None
    assert event.value is not None
    answer, told = decode_result(result.value), decode_event(event.value)
    asked = msgspec.json.decode(record().value)
    assert answer.success
    assert answer.id == told.id == noop.identity_of(7)
    assert answer.result == {"value": asked["data"]["value"], "metadata": {}}
    assert set(msgspec.json.decode(result.value)) == set(answer.__struct_fields__) - {"error"}
    assert list(answer.timings) == list(told.timings) != []
    for sent, kind in ((result, RESULT_TYPE), (event, EVENT_TYPE)):
        ours = BinaryHeaders(kind, "inferstream/worker").of(answer.id, answer.timestamp)
        assert [name for name, _ in sent.headers] == [name for name, _ in ours]
        assert dict(sent.headers)["ce_type"] == dict(ours)["ce_type"]
