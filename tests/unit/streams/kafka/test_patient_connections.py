"""Pauses before a broker that is away is tried again, in a time that the test turns."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from streams.kafka.patient_connections import LONGEST_PAUSE_S, PatientConnections


class Cluster:
    """An aiokafka client as far as it matters here, its brokers, and their time."""

    def __init__(self, brokers: int = 1) -> None:
        self.now = 0.0
        self.open: dict[int, bool] = dict.fromkeys(range(brokers), False)
        """Whether a broker's port takes connections."""
        self.refuses: set[int] = set()
        """Brokers that end a connection which their port took."""
        self.tried: list[tuple[int, float]] = []
        self.asked_again: Callable[[], None] = lambda: None
        self.cluster = SimpleNamespace(
            broker_metadata=lambda node: SimpleNamespace(host="h", port=node) if node in self.open else None
        )
        PatientConnections(self, clock=lambda: self.now, sleep=self.sleep, is_open=self.is_open)

    async def _get_conn(self, node: int, **options: Any) -> object | None:
        self.tried.append((node, self.now))
        await asyncio.sleep(0)
        return object() if self.open.get(node) and node not in self.refuses else None

    def get_random_node(self) -> int:
        return max(self.open)

    async def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.asked_again()
        await asyncio.sleep(0)

    async def is_open(self, host: str, port: int) -> bool:
        return self.open[port]

    async def connect(self, node: int = 0) -> object | None:
        return await self._get_conn(node)


async def test_a_broker_that_is_away_is_tried_at_growing_pauses() -> None:
    cluster = Cluster()
    while len(cluster.tried) < 8:
        assert await cluster.connect() is None
    times = [round(when, 6) for _, when in cluster.tried]
    assert times == [0, 1, 3, 7, 15, 31, 61, 91]


async def test_a_pause_ends_when_the_port_opens_and_the_next_is_short_again() -> None:
    cluster = Cluster()
    while len(cluster.tried) < 7:
        await cluster.connect()
    began = cluster.now
    cluster.asked_again = lambda: cluster.open.update({0: cluster.now > began + 5})
    assert await cluster.connect() is not None
    assert cluster.now < began + 7
    cluster.asked_again = lambda: None
    cluster.open[0] = False
    again = cluster.now
    assert await cluster.connect() is None
    assert await cluster.connect() is None
    assert cluster.now == again + 1


async def test_a_port_that_is_open_and_answers_nothing_shortens_no_pause() -> None:
    cluster = Cluster()
    cluster.open[0], cluster.refuses = True, {0}
    while len(cluster.tried) < 7:
        await cluster.connect()
    assert cluster.tried[-1][1] - cluster.tried[-2][1] == LONGEST_PAUSE_S


async def test_while_another_broker_answers_the_pause_is_a_second() -> None:
    cluster = Cluster(brokers=2)
    cluster.open[1] = True
    for _ in range(6):
        assert await cluster.connect(0) is None
        assert await cluster.connect(1) is not None
    assert [when for node, when in cluster.tried if node == 0] == [0, 1, 2, 3, 4, 5]


async def test_a_broker_that_comes_back_ends_the_pause_for_one_that_does_not() -> None:
    cluster = Cluster(brokers=2)
    while len(cluster.tried) < 7:
        await cluster.connect(0)
    began = cluster.now
    cluster.asked_again = lambda: cluster.open.update({1: cluster.now > began + 3})
    assert await cluster.connect(0) is None
    assert cluster.now < began + 5


async def test_all_who_wait_for_a_broker_share_one_attempt() -> None:
    cluster = Cluster()
    await cluster.connect()
    assert await asyncio.gather(*(cluster.connect() for _ in range(5))) == [None] * 5
    assert len(cluster.tried) == 2
    cluster.asked_again = lambda: cluster.open.update({0: True})
    assert all(await asyncio.gather(*(cluster.connect() for _ in range(5))))


async def test_one_who_is_cancelled_while_waiting_leaves_the_attempt_to_the_next() -> None:
    cluster = Cluster()
    await cluster.connect()
    waiting = [asyncio.create_task(cluster.connect()) for _ in range(2)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    assert await waiting[1] is None
    assert len(cluster.tried) == 2


async def test_a_broker_that_the_cluster_does_not_name_any_more_is_not_waited_for() -> None:
    cluster = Cluster()
    await cluster.connect()
    del cluster.open[0]
    assert await cluster.connect() is None
    assert cluster.now == 0
