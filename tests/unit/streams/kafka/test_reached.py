"""A broker that dies after it has answered: whoever connects next hears why, not an error of the library."""

from __future__ import annotations

import asyncio

import pytest
from aiokafka import AIOKafkaClient
from aiokafka.errors import GroupAuthorizationFailedError

from deploy.local.ports import free_ports
from streams.kafka.connection import BrokerUnavailable, connection_options, reached
from streams.kafka.connection_problems import why_no_broker_answers
from streams.settings import KafkaSettings


@pytest.mark.logs_errors("aiokafka: Unable connect")
async def test_a_broker_that_has_gone_meanwhile_is_told_with_what_to_do() -> None:
    server = f"127.0.0.1:{free_ports(1)[0]}"
    client = AIOKafkaClient(bootstrap_servers=server)
    with pytest.raises(BrokerUnavailable, match=f"{server}: nothing listens there; start one with"):
        async with reached(KafkaSettings(bootstrap_servers=server)):
            await client.bootstrap()


@pytest.mark.logs_errors("aiokafka: Unable connect")
async def test_a_broker_that_ends_while_it_is_asked_is_told_as_one_that_is_not_there() -> None:
    async def end(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server.close()
        writer.transport.abort()

    server = await asyncio.start_server(end, "127.0.0.1", 0)
    kafka = KafkaSettings(bootstrap_servers=f"127.0.0.1:{server.sockets[0].getsockname()[1]}")
    reason = await why_no_broker_answers(kafka, connection_options(kafka))
    assert reason is not None
    assert reason.startswith(f"no broker answers at kafka.bootstrap_servers={kafka.bootstrap_servers}: nothing listens")


async def test_what_a_broker_refuses_stays_what_it_is() -> None:
    with pytest.raises(GroupAuthorizationFailedError):
        async with reached(KafkaSettings()):
            raise GroupAuthorizationFailedError
