"""How to reach the broker: one translation of the kafka settings for aiokafka and for Faust."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from aiokafka.errors import KafkaError, KafkaTimeoutError, UnknownTopicOrPartitionError

if TYPE_CHECKING:
    from streams.settings import KafkaSettings

_CONNECT_TIMEOUT_S = 15.0


class BrokerUnavailable(Exception):
    """Raised when no broker answers; says which setting names it and how to start one."""


def is_passing(error: BaseException) -> bool:
    """Whether the error is of a broker that is away, slow or about to be replaced by another, so that waiting helps."""
    if isinstance(error, UnknownTopicOrPartitionError):
        return False
    return isinstance(error, KafkaTimeoutError) or (isinstance(error, KafkaError) and error.retriable)


@asynccontextmanager
async def broker_answering(kafka: KafkaSettings) -> AsyncIterator[None]:
    """Run a body that connects to the broker, within a time limit and with one clear error.

    Raises:
        BrokerUnavailable: retryable; the broker did not answer, or refused.
    """
    try:
        async with asyncio.timeout(_CONNECT_TIMEOUT_S):
            yield
    except (KafkaError, OSError, TimeoutError) as error:
        raise BrokerUnavailable(
            f"no broker answers at kafka.bootstrap_servers={kafka.bootstrap_servers!r} "
            f"({type(error).__name__}: {error}); start one with `inferstream up`, or correct the setting"
        ) from error


def ssl_context(kafka: KafkaSettings) -> ssl.SSLContext | None:
    """Return the TLS context that these settings ask for, None for a plain connection."""
    if "SSL" not in kafka.security_protocol:
        return None
    context = ssl.create_default_context(cafile=str(kafka.ssl_cafile) if kafka.ssl_cafile else None)
    if kafka.ssl_certfile:
        context.load_cert_chain(
            str(kafka.ssl_certfile), str(kafka.ssl_keyfile) if kafka.ssl_keyfile else None
        )
    return context


def connection_options(kafka: KafkaSettings) -> dict[str, Any]:
    """Return the keyword arguments that every aiokafka client of ours takes."""
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


def faust_credentials(kafka: KafkaSettings) -> Any:
    """Return Faust's credentials object for these settings, None for a plain connection."""
    from faust import SASLCredentials, SSLCredentials

    context = ssl_context(kafka)
    if kafka.sasl_mechanism:
        return SASLCredentials(
            username=kafka.sasl_username,
            password=kafka.sasl_password.get_secret_value() if kafka.sasl_password else None,
            mechanism=kafka.sasl_mechanism,
            ssl_context=context,
        )
    return SSLCredentials(context) if context else None
