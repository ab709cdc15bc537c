"""A write to a connection that is closed: uvloop raises what aiokafka does not expect."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
import uvloop
from aiokafka.conn import AIOKafkaConnection
from aiokafka.errors import KafkaConnectionError
from aiokafka.protocol.metadata import MetadataRequest

from streams.kafka.aiokafka_internals import adapt_connections


async def until_the_end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Stand for a broker that says nothing."""
    try:
        await reader.read()
    except ConnectionError:
        pass
    finally:
        writer.close()


async def send_to_closed(*, side_by_side: bool) -> None:
    server = await asyncio.start_server(until_the_end, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        made: Any = AIOKafkaConnection("127.0.0.1", port)
        made._reader, made._writer = await asyncio.open_connection("127.0.0.1", port)
        made._versions, made._read_task = {3: (0, 9)}, asyncio.create_task(asyncio.sleep(0))

        async def connect(node: Any, **_: Any) -> Any:
            return made

        client = SimpleNamespace(_get_conn=connect)
        if side_by_side:
            adapt_connections(client)
        connection: Any = await client._get_conn(1, group="default")
        assert await client._get_conn(1) is connection
        connection._writer.transport.abort()
        await asyncio.sleep(0)  # closed, and aiokafka has not heard of it
        await connection.send(MetadataRequest([]))


@pytest.mark.parametrize(
    ("side_by_side", "error"), [(True, KafkaConnectionError), (False, RuntimeError)], ids=["ours", "bare"]
)
def test_a_write_to_a_closed_connection_is_an_error_of_the_connection(
    side_by_side: bool, error: type[Exception]
) -> None:
    """Of a bare client it is a RuntimeError: where that changes, ours is not needed any more."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner, pytest.raises(error):
        runner.run(send_to_closed(side_by_side=side_by_side))
