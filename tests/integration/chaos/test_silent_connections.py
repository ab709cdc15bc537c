"""Connections that fall silent while nobody closes them, as behind a firewall that forgets them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.local import KafkaRelease, LocalStack
from deploy.local.ports import HOST, free_ports
from tests.integration.chaos.auditor import settled
from tests.integration.chaos.crew import Crew, answers_grow
from tests.integration.chaos.deliveries import send_all, sleepy
from tests.integration.chaos.places import Place
from tests.integration.chaos.steady_load import SteadyLoad
from tests.integration.toxic_proxy import Pass, Stall, ToxicProxy
from tests.kafka_cluster import RunningCluster

pytestmark = [pytest.mark.integration, pytest.mark.chaos]

REQUEST_TIMEOUT_S = 6


@pytest.fixture
def proxied(
    kafka_release: KafkaRelease | None, local_stack: LocalStack, sleepy_model: str, tmp_path: Path
) -> Iterator[tuple[Place, ToxicProxy]]:
    """One broker, and a proxy by which workers reach it: `PROXIED` names its address."""
    if kafka_release is None:
        pytest.skip("no release of Apache Kafka is named: the embedded broker names one address only")
    cluster = RunningCluster(tmp_path / "kafka", kafka_release)
    node = cluster.nodes[0]
    inner, outer = free_ports(2)
    proxy = ToxicProxy(HOST, inner)
    proxy.port = outer
    direct, controller = f"PLAINTEXT://{HOST}:{node.ports['main']}", node.ports["controller"]
    cluster.properties = {
        "listeners": f"{direct},PROXIED://{HOST}:{inner},CONTROLLER://{HOST}:{controller}",
        "advertised.listeners": f"{direct},PROXIED://{HOST}:{outer}",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,PROXIED:PLAINTEXT",
        "inter.broker.listener.name": "PLAINTEXT",
    }
    with cluster, proxy:
        yield Place({**local_stack.settings(), **cluster.settings()}), proxy


async def test_a_worker_gives_up_connections_that_are_silent_and_goes_on(
    proxied: tuple[Place, ToxicProxy], tmp_path: Path
) -> None:
    place, proxy = proxied
    site = await place.site(tmp_path, partitions=4, request_timeout_s=REQUEST_TIMEOUT_S)
    through_proxy = {"INFERSTREAM_KAFKA__BOOTSTRAP_SERVERS": f"{HOST}:{proxy.port}"}
    async with Crew(site, settings=through_proxy) as crew:
        await crew.join()
        async with SteadyLoad(site, "plain", rate_per_s=40):
            for _ in range(2):
                await answers_grow(site, "plain", by=40)
                proxy.mode = Stall(after_bytes=0)
                await asyncio.sleep(2)  # whatever is open meets it, and stays silent for good
                proxy.mode = Pass()
                await answers_grow(site, "plain", by=200)
        await crew.ends_with_all_answered()


async def test_a_join_may_take_longer_than_other_requests(proxied: tuple[Place, ToxicProxy], tmp_path: Path) -> None:
    place, _ = proxied
    site = await place.site(tmp_path, partitions=4, request_timeout_s=REQUEST_TIMEOUT_S)
    async with Crew(site) as crew:
        await crew.join()
        await send_all(site, [sleepy("long", task="plain", seconds=3 * REQUEST_TIMEOUT_S)])
        worker = await crew.join()
        assert "JoinGroupRequest" not in worker.log  # aiokafka names requests that were not answered
        (await settled(site, "plain")).check()
        await crew.all_end_in_time()
