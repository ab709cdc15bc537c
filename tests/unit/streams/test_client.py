"""How long a client goes on with a request that no topic takes, and what it refuses before it sends."""

from __future__ import annotations

import asyncio
import math
import re
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.errors import UnknownTopicOrPartitionError

from streams.awaited_results import AwaitedResults
from streams.client import InferenceClient
from streams.client_errors import ClientClosed, ClientError, NoAnswer, RequestNotSent
from streams.messages import Request
from streams.settings import KafkaSettings
from tests.unit.streams.virtual_time import virtual_time


class Producer:
    """Asks brokers that answer and know no topic, for a second."""

    def __init__(self) -> None:
        cluster = SimpleNamespace(partitions_for_topic=lambda topic: None)
        self.client = SimpleNamespace(cluster=cluster, force_metadata_update=self.ask)

    async def ask(self) -> bool:
        return True

    async def send_and_wait(self, topic: str, value: bytes, **_: Any) -> None:
        await asyncio.sleep(1.0)
        raise UnknownTopicOrPartitionError


@pytest.mark.parametrize(
    ("timeout_s", "closed_at", "error", "ended_at"),
    [
        pytest.param(60.0, 60.0, RequestNotSent, 6.0, id="the topic is missing"),
        pytest.param(2.0, 60.0, NoAnswer, 2.0, id="the caller's time is over"),
        pytest.param(60.0, 2.0, ClientClosed, 2.0, id="the client is closed"),
    ],
)
def test_looking_for_a_missing_topic_takes_no_longer_than_the_call(
    timeout_s: float, closed_at: float, error: type[ClientError], ended_at: float
) -> None:
    async def send() -> None:
        client: Any = InferenceClient(KafkaSettings(), tasks=[])
        client._producer, client._awaited = Producer(), (awaited := AwaitedResults())
        awaited.loop.call_later(closed_at, awaited.end, ClientClosed("the client was closed"))
        with pytest.raises(error):
            await client.send(Request(task="asr", model_name="m", data={}, id="r1"), timeout_s=timeout_s)

    with virtual_time() as loop:
        loop.run_until_complete(send())
        assert loop.time() == pytest.approx(ended_at, abs=0.5)


@pytest.mark.parametrize("timeout_s", [math.nan, math.inf, -math.inf, 0, -1.0, True, "5", 10**400])
async def test_a_time_that_is_no_number_of_seconds_is_refused_before_anything_is_sent(timeout_s: Any) -> None:
    client = InferenceClient(KafkaSettings(), tasks=["asr"])
    request = Request(task="asr", model_name="m", data={})
    for call in (
        client.send(request, timeout_s=timeout_s),
        client.infer(request, timeout_s=timeout_s),
        anext(client.infer_many([request], timeout_s=timeout_s)),
    ):
        with pytest.raises(ValueError, match=r"^timeout_s=.* must be a finite number of seconds above 0"):
            await call


@pytest.mark.parametrize(
    ("fields", "wrong"),
    [
        ({"deadline": math.nan}, "request.deadline is NaN"),
        ({"deadline": math.inf}, "request.deadline is Infinity"),
        ({"options": {"temperature": math.nan}}, "request.options.temperature is NaN"),
        ({"data": {"points": [1.0, -math.inf]}}, "request.data.points[1] is -Infinity"),
    ],
)
async def test_a_number_that_json_does_not_have_is_refused_and_not_sent_as_null(
    fields: dict[str, Any], wrong: str
) -> None:
    client = InferenceClient(KafkaSettings(), tasks=["asr"])
    request = Request(**{"task": "asr", "model_name": "m", "data": {}, "id": "r1", **fields})
    with pytest.raises(RequestNotSent, match=re.escape(f"request 'r1' cannot be written as JSON: {wrong}")):
        await client.send(request)
