"""Connections to the broker: translates the kafka settings for aiokafka."""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from aiokafka.errors import KafkaConnectionError, KafkaError, KafkaTimeoutError, UnknownTopicOrPartitionError

from engines.configuration import ConfigurationError
from streams.client_errors import ClientError
from streams.kafka.connection_problems import first_to_answer, why_no_broker_answers

if TYPE_CHECKING:
    from pathlib import Path

    from aiokafka import AIOKafkaProducer

    from streams.settings import KafkaSettings

_CONNECT_TIMEOUT_S = 15.0
_METADATA_S = 5.0
_METADATA_PAUSE_S = 0.2


class BrokerUnavailable(ClientError):
    """Raised when no broker can be reached; says why and what to do."""

    retryable = True


def is_passing(error: BaseException) -> bool:
    """Whether the error is of a broker that is away, slow or about to be replaced, so that waiting helps."""
    if isinstance(error, UnknownTopicOrPartitionError):
        return False
    return isinstance(error, KafkaTimeoutError) or (isinstance(error, KafkaError) and error.retriable)


async def is_passing_for(producer: AIOKafkaProducer, topic: str, error: BaseException) -> bool:
    """As `is_passing`; also where aiokafka reports `topic` as unknown because no broker could be asked, or because one
    that has just started did not know its topics yet."""
    if not isinstance(error, UnknownTopicOrPartitionError):
        return is_passing(error)
    client, has_answered = producer.client, False
    try:
        async with asyncio.timeout(_METADATA_S):
            while await client.force_metadata_update():
                has_answered = True
                if client.cluster.partitions_for_topic(topic) is not None:
                    break
                await asyncio.sleep(_METADATA_PAUSE_S)
    except TimeoutError:
        return not has_answered
    return True


@asynccontextmanager
async def answered_within(kafka: KafkaSettings, limit_s: float) -> AsyncIterator[None]:
    """Run a body that asks brokers, within a time limit; errors become one clear message.

    Raises:
        BrokerUnavailable: retryable; a broker did not answer in time, or refused.
    """
    try:
        async with asyncio.timeout(limit_s):
            yield
    except (KafkaError, OSError, TimeoutError) as error:
        raise await unavailable(kafka, error, limit_s) from error


@asynccontextmanager
async def broker_answering(kafka: KafkaSettings) -> AsyncIterator[dict[str, Any]]:
    """Run a body that connects to the brokers, as `answered_within` does.

    Yields `connection_options` with the one bootstrap server that answered first: aiokafka asks them one after
    another, and waits for a frozen one as long as for any request.

    Raises:
        BrokerUnavailable: retryable; the broker did not answer, or refused.
    """
    async with answered_within(kafka, _CONNECT_TIMEOUT_S):
        options = connection_options(kafka)
        yield {**options, "bootstrap_servers": await first_to_answer(options)}


@asynccontextmanager
async def reached(kafka: KafkaSettings) -> AsyncIterator[None]:
    """Run a body that connects in its own time; that no broker can be reached becomes one clear message.

    Raises:
        BrokerUnavailable: retryable; no broker can be reached, such as the one that has answered just before.
    """
    try:
        yield
    except KafkaConnectionError as error:
        raise await unavailable(kafka, error) from error


async def unavailable(
    kafka: KafkaSettings, error: BaseException, limit_s: float = _CONNECT_TIMEOUT_S
) -> BrokerUnavailable:
    """Return the error for `error`, which came up within `limit_s`; asks the brokers again for its cause."""
    reason = await why_no_broker_answers(kafka, connection_options(kafka))
    is_slow = isinstance(error, TimeoutError)
    said = f"did not answer all that was asked within {limit_s:g} s" if is_slow else f"gave up: {error}"
    return BrokerUnavailable(
        reason
        or f"the broker at {kafka.bootstrap_servers} can be reached and {said}; try again, or look at its own log"
    )


def ssl_context(kafka: KafkaSettings) -> ssl.SSLContext | None:
    """Return the TLS context of these settings, None for a plain connection.

    Raises:
        ConfigurationError: permanent; a file is missing or invalid.
    """
    if "SSL" not in kafka.security_protocol:
        return None
    try:
        context = ssl.create_default_context(cafile=str(kafka.ssl_cafile) if kafka.ssl_cafile else None)
    except OSError as error:  # SSLError is one, too
        raise _unusable("ssl_cafile", kafka.ssl_cafile, "certificates in PEM form", error) from None
    if kafka.ssl_certfile:
        keyfile = kafka.ssl_keyfile
        try:
            # Without a password given, OpenSSL asks for one at the terminal.
            context.load_cert_chain(str(kafka.ssl_certfile), str(keyfile) if keyfile else None, lambda: "")
        except OSError as error:
            for name, path in (("ssl_certfile", kafka.ssl_certfile), ("ssl_keyfile", keyfile)):
                if path is not None and not os.access(path, os.R_OK):
                    raise _unusable(name, path, "a file in PEM form", error) from None
            wanted = "a certificate in PEM form that belongs to kafka.ssl_keyfile, which has no password"
            raise _unusable("ssl_certfile", kafka.ssl_certfile, wanted, error) from None
    return context


def _unusable(name: str, path: Path | None, wanted: str, error: OSError) -> ConfigurationError:
    reason = error.strerror or str(error)
    return ConfigurationError([f"kafka.{name}={path} cannot be used: {reason}; it must be {wanted}"])


def connection_options(kafka: KafkaSettings) -> dict[str, Any]:
    """Return the keyword arguments of every aiokafka client."""
    options: dict[str, Any] = {
        "bootstrap_servers": kafka.bootstrap_servers,
        "security_protocol": kafka.security_protocol,
        "ssl_context": ssl_context(kafka),
    }
    if kafka.sasl_mechanism:
        options |= {
            "sasl_mechanism": kafka.sasl_mechanism,
            "sasl_plain_username": kafka.sasl_username,
            "sasl_plain_password": kafka.sasl_password.get_secret_value() if kafka.sasl_password else None,
        }
    return options
