"""A broker that dies after it has answered: whoever connects next hears why, not an error of the library."""

from __future__ import annotations

import pytest
from aiokafka import AIOKafkaClient
from aiokafka.errors import GroupAuthorizationFailedError

from deploy.local.ports import free_ports
from streams.kafka.connection import BrokerUnavailable, reached
from streams.settings import KafkaSettings


@pytest.mark.logs_errors("aiokafka: Unable connect")
async def test_a_broker_that_has_gone_meanwhile_is_told_with_what_to_do() -> None:
    server = f"127.0.0.1:{free_ports(1)[0]}"
    client = AIOKafkaClient(bootstrap_servers=server)
    with pytest.raises(BrokerUnavailable, match=f"{server}: nothing listens there; start one with"):
        async with reached(KafkaSettings(bootstrap_servers=server)):
            await client.bootstrap()


async def test_what_a_broker_refuses_stays_what_it_is() -> None:
    with pytest.raises(GroupAuthorizationFailedError):
        async with reached(KafkaSettings()):
            raise GroupAuthorizationFailedError
