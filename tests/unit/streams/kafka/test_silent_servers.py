"""Servers that take connections and never answer, as frozen brokers do, beside one that answers."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator

import pytest
from aiokafka.protocol.admin import ApiVersionResponse_v0
from aiokafka.protocol.metadata import MetadataResponse_v1

from streams.client import InferenceClient
from streams.kafka import broker_watch, connection, connection_problems, patient_connections
from streams.kafka.connection import BrokerUnavailable
from streams.kafka.topic_admin import check_rights, check_topics
from streams.kafka.topic_reader import TopicReader
from streams.settings import KafkaSettings

pytestmark = pytest.mark.waits

API_VERSIONS, METADATA = 18, 3
SILENT = 4


class Servers:
    """Silent servers and, by choice, one that answers: brokers of one cluster, of which all are named by it."""

    def __init__(self) -> None:
        self.ports: list[int] = []
        self.open: list[asyncio.StreamWriter] = []
        self.running: list[asyncio.Server] = []

    async def add(self, *, answers: bool) -> None:
        server = await asyncio.start_server(self.answer if answers else self.stay_silent, "127.0.0.1", 0)
        self.running.append(server)
        self.ports.append(server.sockets[0].getsockname()[1])

    async def stay_silent(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open.append(writer)
        await reader.read()

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open.append(writer)
        try:
            while True:
                (size,) = struct.unpack(">i", await reader.readexactly(4))
                key, _, correlation = struct.unpack(">hhi", (await reader.readexactly(size))[:8])
                body = struct.pack(">i", correlation) + self.answer_to(key)
                writer.write(struct.pack(">i", len(body)) + body)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass

    def answer_to(self, key: int) -> bytes:
        if key == API_VERSIONS:
            return bytes(ApiVersionResponse_v0(0, [(API_VERSIONS, 0, 0), (METADATA, 1, 1)]).encode())
        assert key == METADATA
        brokers = [(node, "127.0.0.1", port, None) for node, port in enumerate(self.ports)]
        return bytes(MetadataResponse_v1(brokers, 0, []).encode())

    @property
    def settings(self) -> KafkaSettings:
        return KafkaSettings(bootstrap_servers=",".join(f"127.0.0.1:{port}" for port in self.ports))


@pytest.fixture
async def servers(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Servers]:
    monkeypatch.setattr(patient_connections, "SILENT_S", 0.5)
    made = Servers()
    for _ in range(SILENT):
        await made.add(answers=False)
    yield made
    for writer in made.open:
        writer.close()
    for server in made.running:
        server.close()
        await server.wait_closed()


async def test_what_topics_there_are_is_asked_of_a_broker_that_answers(servers: Servers) -> None:
    await servers.add(answers=True)
    problems = await check_topics(servers.settings, ["echo"])
    assert "does not exist" in str(problems[0])


async def test_rights_are_asked_of_a_broker_that_answers(servers: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    await servers.add(answers=True)
    rights = await check_rights(servers.settings, ["echo"])
    assert not rights.is_told  # it answers, and does not know the question


async def test_clients_and_readers_go_on_with_the_server_that_answers(servers: Servers) -> None:
    await servers.add(answers=True)
    async with TopicReader(servers.settings, []), InferenceClient(servers.settings, tasks=[]):
        pass


async def test_a_watch_that_begins_beside_silent_servers_takes_the_answer_of_any(
    servers: Servers, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(broker_watch, "PATIENCE_S", 2.0)
    await servers.add(answers=True)
    async with asyncio.timeout(60), broker_watch.watching(servers.settings) as watch:
        while not watch.known:
            await asyncio.sleep(0.05)
        assert (watch.known, watch.answering) == (SILENT + 1, 1)
    assert "broker_away" not in capsys.readouterr().out


async def test_only_when_no_server_answers_the_start_fails(servers: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "_CONNECT_TIMEOUT_S", 1.0)
    monkeypatch.setattr(connection_problems, "_PATIENCE_S", 0.5)
    with pytest.raises(BrokerUnavailable, match="does not answer as a Kafka broker"):
        await check_topics(servers.settings, ["echo"])
