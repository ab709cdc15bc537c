"""Results that are posted: their event beside them, and what follows a refusal."""

from __future__ import annotations

from typing import Any

import pytest
from aiokafka.errors import (
    KafkaError,
    KafkaTimeoutError,
    MessageSizeTooLargeError,
)

from engines.run.outcomes import Outcomes
from engines.run.statistics import Statistics
from streams.delivery.publisher import Reply
from streams.messages import Result, decode_result
from tests.unit.streams.publishing_rig import Broker, Heard, codes_of_events, publisher, success


def post(broker: Broker, result: Result) -> list[Exception | None]:
    heard = Heard()
    assert publisher(broker).post(result, heard)
    return heard.outcomes


def test_posting_publishes_the_same_records_and_tells_when_they_are_on_the_broker() -> None:
    broker = Broker()
    assert post(broker, success()) == [None]
    ((key, value, headers),) = broker.on("inference.results.text-generation")
    assert (key, headers["ce_id"]) == (b"k", b"r1")
    assert value is not None
    assert decode_result(value).success
    assert len(broker.on("inference.events")) == 1


def test_posting_tells_what_the_broker_refuses() -> None:
    refusal = MessageSizeTooLargeError()
    assert post(Broker(refusals={"inference.results.text-generation": refusal}), success()) == [refusal]


@pytest.mark.parametrize(
    ("refused_topic", "error", "codes"),
    [
        ("inference.events", KafkaTimeoutError(), [""]),
        ("inference.results.text-generation", KafkaTimeoutError(), [""]),
        ("inference.results.text-generation", MessageSizeTooLargeError(), ["", "RESULT_TOO_LARGE"]),
    ],
    ids=["event", "result", "size"],
)
async def test_what_is_refused_of_a_posted_result_is_published_again_and_what_is_not_stays_one(
    refused_topic: str, error: KafkaError, codes: list[str]
) -> None:
    broker, heard = Broker(refusals={refused_topic: error}), Heard(traceparent="t")
    posting = publisher(broker)
    posting.post(success(), heard)
    assert heard.outcomes == [error]
    if codes[1:]:
        broker.refusals[refused_topic] = error
    await posting.republish(heard)
    ((key, value, headers),) = broker.on("inference.results.text-generation")
    assert value is not None
    result = decode_result(value)
    assert (key, headers["traceparent"], result.id) == (b"k", b"t", "r1")
    assert codes_of_events(broker) == codes
    assert (result.error.code if result.error else "") == codes[-1]


@pytest.mark.parametrize(
    ("characters", "options"),
    [(20_000, {}), (9_500, {"max_message_bytes": 10_000})],
    ids=["for some brokers", "for the settings"],
)
def test_a_result_that_may_be_too_large_is_not_posted_for_its_event_would_go_beside_it(
    characters: int, options: dict[str, Any]
) -> None:
    broker = Broker()
    is_posted = publisher(broker, **options).post(success("x" * characters), Heard())
    assert (is_posted, broker.records) == (False, [])


async def test_a_result_that_the_broker_finds_too_large_counts_as_the_failure_in_its_place() -> None:
    broker, statistics = Broker(), Statistics()
    outcomes = Outcomes(statistics)
    result = success("x" * 200_000)
    outcomes.finished(result)
    await publisher(broker, outcomes=outcomes).result(result, Reply(task="text-generation"))
    found = statistics.snapshot()
    assert (found["total_inferences"], found["successful_inferences"]) == (1, 0)
    assert found["errors"] == {"RESULT_TOO_LARGE": 1}
