"""Pauses before a broker that is away is tried again, in virtual time."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.errors import RequestTimedOutError

from streams.kafka import patient_connections
from streams.kafka.patient_connections import LONGEST_PAUSE_S, SILENT_S, PatientConnections
from tests.unit.streams.virtual_time import virtual_time

SOON_S = 0.01


class Cluster:
    """An aiokafka client as far as it matters here, and its brokers."""

    def __init__(self, brokers: int = 1) -> None:
        self.loop = asyncio.get_running_loop()
        self.open: dict[int, bool] = dict.fromkeys(range(brokers), False)
        """Whether a broker's port takes connections."""
        self.refuses: set[int] = set()
        """Brokers that end a connection which their port took."""
        self.silent_s: dict[int, float] = {}
        """How long brokers take to answer."""
        self.tried: list[tuple[int, float]] = []
        self.cluster = SimpleNamespace(
            broker_metadata=lambda node: SimpleNamespace(host=self, port=node) if node in self.open else None,
            brokers=lambda: [SimpleNamespace(nodeId=node) for node in self.open],
        )
        PatientConnections(self)

    async def _get_conn(self, node: int, **options: Any) -> object | None:
        self.tried.append((node, self.loop.time()))
        await asyncio.sleep(0)
        return SimpleNamespace(_writer=None) if self.open.get(node) and node not in self.refuses else None

    async def coordinator_lookup(self, kind: int, key: str) -> int:
        node = self.get_random_node()
        self.tried.append((node, self.loop.time()))
        await asyncio.sleep(self.silent_s.get(node, 0.0))
        return node

    def get_random_node(self) -> int:
        return max(self.open)

    def opens(self, node: int, *, after_s: float) -> None:
        self.loop.call_later(after_s, self.open.update, {node: True})

    async def connect(self, node: int = 0) -> object | None:
        return await self._get_conn(node)

    async def tries(self, count: int) -> list[float]:
        """Try until so many attempts were made, and return when."""
        while len(self.tried) < count:
            assert await self.connect() is None
        return [when for _, when in self.tried]


@pytest.fixture(autouse=True)
def ports(monkeypatch: pytest.MonkeyPatch) -> None:
    async def is_open(cluster: Any, port: int) -> bool:
        is_there: bool = cluster.open[port]
        return is_there

    monkeypatch.setattr(patient_connections, "is_open", is_open)


def in_virtual_time(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    @functools.wraps(test)
    def run() -> None:
        with virtual_time() as loop:
            loop.run_until_complete(test())

    return run


@in_virtual_time
async def test_a_broker_that_is_away_is_tried_at_growing_pauses() -> None:
    assert await Cluster().tries(8) == pytest.approx([0, 1, 3, 7, 15, 31, 61, 91], abs=SOON_S)


@in_virtual_time
async def test_a_pause_ends_when_the_port_opens_and_the_next_is_short_again() -> None:
    cluster = Cluster()
    await cluster.tries(7)
    began = cluster.loop.time()
    cluster.opens(0, after_s=5)
    assert await cluster.connect() is not None
    assert cluster.loop.time() < began + 7
    cluster.open[0] = False
    again = cluster.loop.time()
    assert await cluster.connect() is None
    assert await cluster.connect() is None
    assert cluster.loop.time() == pytest.approx(again + 1, abs=SOON_S)


@in_virtual_time
async def test_a_port_that_is_open_and_answers_nothing_shortens_no_pause() -> None:
    cluster = Cluster()
    cluster.open[0], cluster.refuses = True, {0}
    *_, before, last = await cluster.tries(7)
    assert last - before == pytest.approx(LONGEST_PAUSE_S, abs=SOON_S)


@in_virtual_time
async def test_while_another_broker_answers_the_pause_is_a_second() -> None:
    cluster = Cluster(brokers=2)
    cluster.open[1] = True
    for _ in range(6):
        assert await cluster.connect(0) is None
        assert await cluster.connect(1) is not None
    tried = [when for node, when in cluster.tried if node == 0]
    assert tried == pytest.approx([0, 1, 2, 3, 4, 5], abs=SOON_S)


@in_virtual_time
async def test_a_broker_that_comes_back_ends_the_pause_for_one_that_does_not() -> None:
    cluster = Cluster(brokers=2)
    await cluster.tries(7)
    began = cluster.loop.time()
    cluster.opens(1, after_s=3)
    assert await cluster.connect(0) is None
    assert cluster.loop.time() < began + 5


@in_virtual_time
async def test_all_who_wait_for_a_broker_share_one_attempt() -> None:
    cluster = Cluster()
    await cluster.connect()
    assert await asyncio.gather(*(cluster.connect() for _ in range(5))) == [None] * 5
    assert len(cluster.tried) == 2
    cluster.opens(0, after_s=0.05)
    assert all(await asyncio.gather(*(cluster.connect() for _ in range(5))))


@in_virtual_time
async def test_one_who_is_cancelled_while_waiting_leaves_the_attempt_to_the_next() -> None:
    cluster = Cluster()
    await cluster.connect()
    waiting = [asyncio.create_task(cluster.connect()) for _ in range(2)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    assert await waiting[1] is None
    assert len(cluster.tried) == 2


@in_virtual_time
async def test_a_broker_that_the_cluster_does_not_name_any_more_is_not_waited_for() -> None:
    cluster = Cluster()
    await cluster.connect()
    del cluster.open[0]
    assert await cluster.connect() is None
    assert cluster.loop.time() < SOON_S


@in_virtual_time
async def test_who_coordinates_is_asked_of_another_broker_where_one_is_silent() -> None:
    cluster = Cluster(brokers=3)
    cluster.silent_s = {0: 1e6, 1: 1e6}
    asked = [await cluster.coordinator_lookup(0, "group") for _ in range(20)]
    assert asked == [2] * 20
    assert len(cluster.tried) <= 22  # each silent one is asked once at most
    assert cluster.loop.time() <= 2 * SILENT_S + SOON_S


@in_virtual_time
async def test_brokers_that_are_all_slow_get_more_time_to_say_who_coordinates() -> None:
    cluster = Cluster(brokers=2)
    cluster.silent_s = dict.fromkeys(range(2), 3 * SILENT_S)
    for _ in range(2):
        with pytest.raises(RequestTimedOutError):
            await cluster.coordinator_lookup(0, "group")
    assert await cluster.coordinator_lookup(0, "group") in (0, 1)
