"""What stands between a client and the brokers is told in a sentence that says what it is and what to do."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deploy.local import KafkaRelease, LocalStack
from deploy.local.ports import HOST, free_ports
from engines.configuration import ConfigurationError
from streams.client import InferenceClient
from streams.kafka.connection import BrokerUnavailable
from streams.kafka.topic_admin import TopicsNotReady, TopicsRefused, check_topics, create_topics
from streams.settings import KafkaSettings
from tests.integration.secured_kafka import PASSWORD, SecuredKafka, secured_kafka

# aiokafka does not wait for the end of a connection that fails at its start, and the test's loop ends first.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

ALICE: dict[str, Any] = {"sasl_mechanism": "PLAIN", "sasl_username": "alice", "sasl_password": PASSWORD}


@pytest.fixture(scope="module")
def secured(kafka_release: KafkaRelease | None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecuredKafka]:
    if kafka_release is None:
        pytest.skip("the embedded broker knows neither logins nor TLS nor rights")
    secured = secured_kafka(tmp_path_factory.mktemp("secured"), kafka_release)
    with secured.cluster:
        yield secured


def settings(secured: SecuredKafka, listener: str, protocol: str, **more: Any) -> KafkaSettings:
    if "SSL" in protocol:
        more = {"ssl_cafile": secured.ca_path, **more}
    if "SASL" in protocol:
        more = {**ALICE, **more}
    values = {
        "bootstrap_servers": secured.servers[listener],
        "security_protocol": protocol,
        "topic_prefix": f"t{uuid.uuid4().hex[:8]}",
        "partitions": 1,
    }
    return KafkaSettings.model_validate(values | more)


async def refused(kafka: KafkaSettings) -> str:
    with pytest.raises(BrokerUnavailable) as refusal:
        await check_topics(kafka, ["asr"])
    text = str(refusal.value)
    assert PASSWORD not in text
    assert "; " in text  # what it is, and what to do
    return text


@pytest.mark.parametrize("kind", ["PLAINTEXT", "SASL_PLAINTEXT", "SSL", "SASL_SSL"])
async def test_the_right_settings_for_each_listener_get_in(secured: SecuredKafka, kind: str) -> None:
    assert await check_topics(settings(secured, kind, kind), ["asr"])


@pytest.mark.parametrize("speaks", ["PLAINTEXT", "SASL_PLAINTEXT", "SSL", "SASL_SSL"])
@pytest.mark.parametrize("asked", ["PLAINTEXT", "SASL_PLAINTEXT", "SSL", "SASL_SSL"])
async def test_the_wrong_protocol_is_named_with_the_right_one(secured: SecuredKafka, speaks: str, asked: str) -> None:
    if speaks == asked:
        return
    text = await refused(settings(secured, speaks, asked))
    assert f"{secured.servers[speaks]} speaks {speaks} and kafka.security_protocol={asked}" in text


@pytest.mark.parametrize("kind", ["SASL_PLAINTEXT", "SASL_SSL"])
async def test_a_wrong_password_is_one(secured: SecuredKafka, kind: str) -> None:
    text = await refused(settings(secured, kind, kind, sasl_password="wrong"))
    assert "refuses user alice: the name or the password is wrong" in text
    assert "kafka.sasl_password" in text


async def test_a_mechanism_that_the_broker_does_not_take_is_named_with_those_it_takes(
    secured: SecuredKafka,
) -> None:
    text = await refused(settings(secured, "SASL_SSL", "SASL_SSL", sasl_mechanism="SCRAM-SHA-512"))
    assert "does not take kafka.sasl_mechanism=SCRAM-SHA-512; it takes PLAIN" in text


@pytest.mark.parametrize("asked", ["SASL_PLAINTEXT", "SSL", "SASL_SSL"])
async def test_a_broker_without_logins_is_said_to_have_none(local_stack: LocalStack, asked: str) -> None:
    servers = local_stack.settings()["kafka"]["bootstrap_servers"]
    login = ALICE if "SASL" in asked else {}
    kafka = KafkaSettings.model_validate({"bootstrap_servers": servers, "security_protocol": asked, **login})
    assert f"{servers} speaks PLAINTEXT and kafka.security_protocol={asked}; set it to PLAINTEXT" in (
        await refused(kafka)
    )


async def test_an_unknown_authority_is_one(secured: SecuredKafka) -> None:
    text = await refused(settings(secured, "SSL", "SSL", ssl_cafile=secured.other_ca_path))
    assert "is signed by nobody in kafka.ssl_cafile=" in text


async def test_a_missing_client_certificate_is_asked_for(secured: SecuredKafka) -> None:
    assert "kafka.ssl_certfile" in await refused(settings(secured, "MTLS", "SSL"))


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (
            {"ssl_cafile": Path("/nowhere/ca.pem")},
            "kafka.ssl_cafile=/nowhere/ca.pem cannot be used: No such file",
        ),
        ({"ssl_cafile": Path(__file__)}, "certificates in PEM form"),
        ({"ssl_certfile": Path("/nowhere/me.pem")}, "kafka.ssl_certfile=/nowhere/me.pem cannot be used"),
        ({"ssl_certfile": Path(__file__)}, "kafka.ssl_certfile="),
    ],
)
async def test_a_file_that_is_no_certificate_is_named(secured: SecuredKafka, change: dict[str, Any], part: str) -> None:
    with pytest.raises(ConfigurationError, match="cannot be used") as refusal:
        await check_topics(settings(secured, "SSL", "SSL", **change), ["asr"])
    assert part in refusal.value.problems[0]


async def test_where_nothing_listens_the_command_that_starts_a_broker_is_named() -> None:
    [port] = free_ports(1)
    text = await refused(KafkaSettings(bootstrap_servers=f"{HOST}:{port}"))
    assert "nothing listens there; start one with `inferstream up`" in text


async def test_a_port_that_is_no_brokers_and_a_name_without_address_are_told() -> None:
    server = await asyncio.start_server(lambda reader, writer: writer.close(), HOST, 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        assert "does not answer as a Kafka broker" in await refused(KafkaSettings(bootstrap_servers=f"{HOST}:{port}"))
    assert "has no address" in await refused(KafkaSettings(bootstrap_servers="no-such-host.invalid:9092"))


async def test_a_missing_right_is_not_a_missing_topic(secured: SecuredKafka) -> None:
    may = settings(secured, "PLAINTEXT", "PLAINTEXT")
    await create_topics(may, ["asr"])
    alice = settings(secured, "SASL_PLAINTEXT", "SASL_PLAINTEXT").model_copy(update={"topic_prefix": may.topic_prefix})
    for problem in await check_topics(alice, ["asr"]):
        assert "is not for user alice: the right to describe it is missing" in str(problem)
        assert "does not exist" not in str(problem)
    with pytest.raises(TopicsNotReady, match="the right to describe it is missing"):
        async with InferenceClient(alice, tasks=["asr"]):
            pass
    with pytest.raises(TopicsRefused, match="user alice may not make or change topics"):
        await create_topics(alice.model_copy(update={"topic_prefix": "another"}), ["asr"])


async def test_more_copies_than_brokers_and_a_name_that_collides_are_told(secured: SecuredKafka) -> None:
    kafka = settings(secured, "PLAINTEXT", "PLAINTEXT")
    with pytest.raises(TopicsRefused, match="replication_factor=3 asks for more copies than brokers, and there is one"):
        await create_topics(kafka.model_copy(update={"replication_factor": 3}), ["asr"])
    await create_topics(kafka.model_copy(update={"topic_prefix": f"{kafka.topic_prefix}.x"}), ["asr"])
    with pytest.raises(TopicsRefused, match=r"collides with existing topic.*choose another kafka.topic_prefix"):
        await create_topics(kafka.model_copy(update={"topic_prefix": f"{kafka.topic_prefix}_x"}), ["asr"])


@pytest.mark.parametrize("command", [["topics", "check"], ["worker", "--task", "asr"]])
async def test_a_command_shows_the_sentence_and_no_traceback(
    secured: SecuredKafka, tmp_path: Path, command: list[str]
) -> None:
    sets = [
        f"kafka.bootstrap_servers={secured.servers['SASL_PLAINTEXT']}",
        "kafka.security_protocol=SASL_PLAINTEXT",
        "kafka.sasl_mechanism=PLAIN",
        "kafka.sasl_username=alice",
        "kafka.sasl_password=wrong",
    ]
    given = [part for one in sets for part in ("--set", one)]
    ran = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "streams.cli", *command, *given],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        cwd=tmp_path,
    )
    assert ran.returncode == 1
    assert "the name or the password is wrong" in ran.stderr
    for unwanted in ("Traceback", "TaskGroup", "inferstream up"):
        assert unwanted not in ran.stdout + ran.stderr
