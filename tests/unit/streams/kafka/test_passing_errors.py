"""Which errors of a producer pass by themselves."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from itertools import chain, repeat
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.errors import KafkaTimeoutError, MessageSizeTooLargeError, UnknownTopicOrPartitionError

from streams.kafka import connection
from streams.kafka.connection import is_passing_for

TOPIC = "inference.requests.asr"


class Client:
    """A producer's client, whose brokers answer in turn: None for no answer, else whether they know the topic."""

    def __init__(self, answers: Iterator[bool | None]) -> None:
        self.cluster = SimpleNamespace(partitions_for_topic=lambda topic: self.known.get(topic))
        self.known: dict[str, set[int]] = {}
        self._answers = answers

    async def force_metadata_update(self) -> bool:
        await asyncio.sleep(0)
        answer = next(self._answers)
        self.known = {TOPIC: {0}} if answer else {}
        return answer is not None


def producer(*answers: bool | None, then: bool | None) -> Any:
    return SimpleNamespace(client=Client(chain(answers, repeat(then))))


@pytest.fixture(autouse=True)
def _short_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "_METADATA_S", 0.2)
    monkeypatch.setattr(connection, "_METADATA_PAUSE_S", 0.0)


@pytest.mark.parametrize(
    ("brokers", "passes"),
    [
        pytest.param(producer(then=True), True, id="the topic is there"),
        pytest.param(producer(False, False, then=True), True, id="a broker has just started"),
        pytest.param(producer(then=None), True, id="no broker answers"),
        pytest.param(producer(False, then=None), True, id="the broker has gone again"),
        pytest.param(producer(then=False), False, id="there is no such topic"),
    ],
)
async def test_an_unknown_topic_is_missing_only_if_brokers_go_on_saying_so(brokers: Any, passes: bool) -> None:
    assert await is_passing_for(brokers, TOPIC, UnknownTopicOrPartitionError()) is passes


async def test_a_broker_that_is_asked_in_vain_may_answer_later() -> None:
    asked = asyncio.get_running_loop().create_future()
    frozen: Any = SimpleNamespace(client=SimpleNamespace(force_metadata_update=lambda: asked))
    assert await is_passing_for(frozen, TOPIC, UnknownTopicOrPartitionError())


@pytest.mark.parametrize(("error", "passes"), [(KafkaTimeoutError(), True), (MessageSizeTooLargeError(), False)])
async def test_no_broker_is_asked_about_other_errors(error: Exception, passes: bool) -> None:
    nobody: Any = None
    assert await is_passing_for(nobody, TOPIC, error) is passes
