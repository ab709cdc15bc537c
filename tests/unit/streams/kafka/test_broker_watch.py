"""A broker that is away is told once and then seldom, and a moment of it is known from then on."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
import structlog
from aiokafka.errors import NodeNotReadyError

from streams.kafka import broker_watch
from streams.kafka.broker_watch import BrokerWatch


class Client:
    """Stands for aiokafka's: each broker of `nodes` answers, is silent or is down."""

    def __init__(self, *nodes: str) -> None:
        self.nodes = nodes
        self.bootstraps = 0
        self.now = 100.0
        brokers = [SimpleNamespace(nodeId=number) for number in range(len(nodes))]
        self.cluster = SimpleNamespace(brokers=lambda: brokers)

    async def connect(self) -> Any:
        self.bootstraps += 1
        if "answers" not in self.nodes and "silent" in self.nodes:
            await asyncio.Future()
        return self

    async def close(self) -> None: ...

    async def send(self, node: int, request: Any) -> None:
        match self.nodes[node]:
            case "silent":
                await asyncio.Future()
            case "down":
                raise NodeNotReadyError


async def test_brokers_that_answer_are_counted_without_a_line() -> None:
    client: Any = Client("answers", "answers", "answers")
    watch = BrokerWatch("a:1", client.connect, clock=lambda: client.now)
    with structlog.testing.capture_logs() as lines:
        await watch.look()
        assert watch.report() == {"status": "ok", "known": 3, "answering": 3, "away_s": 0.0}
        client.nodes = ("answers", "down", "answers")
        await watch.look()
        assert watch.report()["status"] == "degraded"
    assert lines == []


async def test_an_outage_is_one_line_then_one_after_growing_pauses_and_one_at_its_end() -> None:
    client: Any = Client("answers", "answers", "answers")
    watch = BrokerWatch("a:1", client.connect, clock=lambda: client.now)
    client.nodes = ("down", "down", "down")
    with structlog.testing.capture_logs() as lines:
        for _ in range(721):  # an hour
            await watch.look()
            client.now += 5
        assert watch.report()["status"] == "away"
        assert watch.away_s >= 3600
        client.nodes = ("down", "answers", "down")
        await watch.look()
    assert [line["event"] for line in lines] == ["broker_away"] * 8 + ["broker_back"]
    assert [line["away_s"] for line in lines[:-1]] == [0, 30, 60, 120, 240, 480, 960, 1920]
    assert (lines[0]["servers"], lines[0]["log_level"]) == ("a:1", "warning")
    assert lines[-1]["away_s"] >= 3600
    assert watch.away_s == 0


async def test_brokers_that_are_frozen_are_known_to_be_away_after_one_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(broker_watch, "PATIENCE_S", 0.05)
    client: Any = Client("answers", "answers", "silent")
    watch = BrokerWatch("a:1", client.connect)
    await watch.look()
    assert watch.report()["status"] == "degraded"
    client.nodes = ("silent", "silent", "down")
    before = client.bootstraps
    await watch.look()
    assert watch.report()["status"] == "away"
    assert client.bootstraps == before  # that may take as long again for each address, and comes next time
    await watch.look()
    assert client.bootstraps == before + 1


@pytest.mark.parametrize(
    ("nodes", "any_answers"),
    [(("silent", "answers"), True), (("down", "answers"), True), (("silent", "down"), False), ((), False)],
)
async def test_at_a_stop_one_broker_that_answers_is_enough(nodes: tuple[str, ...], any_answers: bool) -> None:
    client: Any = Client(*nodes)
    watch = BrokerWatch("a:1", client.connect)
    watch._client = client
    async with asyncio.timeout(60):
        assert await watch.any_answers() is any_answers
