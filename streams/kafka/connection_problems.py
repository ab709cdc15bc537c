"""Finds out why no broker can be reached, and says it in a sentence with what to do."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from typing import TYPE_CHECKING, Any

from aiokafka.conn import AIOKafkaConnection, collect_hosts, create_conn
from aiokafka.errors import (
    AuthenticationFailedError,
    KafkaConnectionError,
    KafkaError,
    SaslAuthenticationFailed,
    UnsupportedSaslMechanismError,
)
from aiokafka.protocol.admin import SaslHandShakeRequest
from aiokafka.protocol.metadata import MetadataRequest

if TYPE_CHECKING:
    from streams.settings import KafkaSettings

_PATIENCE_S = 3.0
_MOST_SERVERS = 3
NO_ANSWER = (KafkaError, OSError, TimeoutError, EOFError, AssertionError)

_CERTIFICATE_WRONG = (
    ("hostname mismatch", "is not made out for that name; name the broker as its certificate does"),
    ("ip address mismatch", "is not made out for that address; name the broker as its certificate does"),
    ("expired", "has expired; renew it on the broker"),
    ("not yet valid", "is not valid yet; look at the clocks"),
)


async def first_to_answer(options: dict[str, Any]) -> str:
    """Return the bootstrap server of `options` that answers first; silent ones cost no time.

    Raises:
        KafkaConnectionError: retryable; each has refused.
    """
    servers: str = options["bootstrap_servers"]
    if "," not in servers:
        return servers
    asking = [asyncio.create_task(_answers(server, options)) for server in servers.split(",")]
    try:
        for answer in asyncio.as_completed(asking):
            with contextlib.suppress(*NO_ANSWER):
                return await answer
    finally:
        for one in asking:
            one.cancel()
        await asyncio.wait(asking)
    raise KafkaConnectionError(f"none of {servers} answers")


async def _answers(server: str, options: dict[str, Any]) -> str:
    [(host, port, _)] = collect_hosts(server)
    connection = await create_conn(host, port, **_without_servers(options))
    try:
        await connection.send(MetadataRequest([]))
    finally:
        await _close(connection)
    return server


async def why_no_broker_answers(kafka: KafkaSettings, options: dict[str, Any]) -> str | None:
    """Return why this client cannot reach the brokers, None where it can; takes some seconds at most.

    `options` are those of every aiokafka client.
    """
    servers = [server.rpartition(":") for server in kafka.bootstrap_servers.split(",")[:_MOST_SERVERS]]
    looks = [_look(kafka, host, int(port), options) for host, _, port in servers]
    found = await asyncio.gather(*looks)
    if None in found:
        return None
    reasons = [reason for reason in found if reason is not None]
    # A server that gives a reason is more helpful than one that is not there.
    return min(reasons, key=lambda reason: "nothing listens" in reason)


async def _look(kafka: KafkaSettings, host: str, port: int, options: dict[str, Any]) -> str | None:
    where = f"{host}:{port}"
    try:
        connection = await _connect(host, port, options)
        try:
            metadata = await asyncio.wait_for(connection.send(MetadataRequest([])), _PATIENCE_S)
        finally:
            await _close(connection)
    except socket.gaierror:
        return f"{host} in kafka.bootstrap_servers is a name that has no address; correct it"
    except ConnectionRefusedError:
        return _nobody(kafka)
    except ssl.SSLCertVerificationError as error:
        return _certificate(kafka, where, error)
    except UnsupportedSaslMechanismError:
        protocol, mechanisms = await _listener(host, port) or (kafka.security_protocol, ())
        if protocol != kafka.security_protocol:
            return _speaks(where, protocol, kafka)
        offered = ", ".join(mechanisms) or "others"
        return (
            f"the broker at {where} does not take kafka.sasl_mechanism={kafka.sasl_mechanism}; it takes {offered}: "
            "set it to one of these"
        )
    except (SaslAuthenticationFailed, AuthenticationFailedError):
        return (
            f"the broker at {where} refuses user {kafka.sasl_username}: the name or the password is wrong; correct "
            "kafka.sasl_username and kafka.sasl_password"
        )
    except NO_ANSWER as error:
        return await _other_protocol(kafka, host, port, error)
    return await _advertised(where, metadata, options)


def _nobody(kafka: KafkaSettings) -> str:
    return (
        f"no broker answers at kafka.bootstrap_servers={kafka.bootstrap_servers}: nothing listens there; start one "
        "with `inferstream up`, or correct the setting"
    )


async def _advertised(where: str, metadata: Any, options: dict[str, Any]) -> str | None:
    """Return what is wrong with the addresses that a broker advertises; None where one can be reached."""
    reason = f"the broker at {where} knows of no broker that is up; look at the brokers' own logs"
    for _, host, port, *_ in metadata.brokers:
        try:
            await _close(await _connect(host, port, options))
            return None
        except NO_ANSWER as error:
            reason = (
                f"the broker at {where} answers, and the address it gives for itself, {host}:{port}, cannot be "
                f"reached from here ({_named(error)}); correct advertised.listeners of the brokers"
            )
    return reason


async def _other_protocol(kafka: KafkaSettings, host: str, port: int, error: BaseException) -> str:
    """Return why a port that listens does not answer as expected."""
    where, asked = f"{host}:{port}", kafka.security_protocol
    listener = await _listener(host, port)
    if listener is None:
        if not await _listens(host, port):  # it ended while it was asked
            return _nobody(kafka)
        return (
            f"{where} takes connections and does not answer as a Kafka broker ({_named(error)}); is it frozen or still "
            "starting, or is that the port of something else? Correct kafka.bootstrap_servers"
        )
    protocol, mechanisms = listener
    if protocol != asked:
        login = (
            f", kafka.sasl_mechanism to one of {', '.join(mechanisms)}, and user and password"
            if mechanisms and not asked.startswith("SASL")
            else ""
        )
        return f"{_speaks(where, protocol, kafka)}{login}"
    if "SSL" in protocol and kafka.ssl_certfile is None:
        return (
            f"the broker at {where} ends the connection after the TLS handshake ({_named(error)}), as one does that "
            "wants a certificate of its clients; set kafka.ssl_certfile and kafka.ssl_keyfile"
        )
    return f"the broker at {where} ends the connection ({_named(error)}); look at its own log, which says why"


def _speaks(where: str, protocol: str, kafka: KafkaSettings) -> str:
    asked = kafka.security_protocol
    return f"the broker at {where} speaks {protocol} and kafka.security_protocol={asked}; set it to {protocol}"


async def _listener(host: str, port: int) -> tuple[str, tuple[str, ...]] | None:
    """Return the port's protocol, in terms of kafka.security_protocol, None where it is not Kafka's.

    And its login mechanisms; none where they are not known.
    """
    for is_tls in (True, False):
        context: ssl.SSLContext | None = None
        if is_tls:
            context = ssl.create_default_context()
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            try:
                async with asyncio.timeout(_PATIENCE_S):
                    _, writer = await asyncio.open_connection(host, port, ssl=context)
            except (OSError, TimeoutError):
                continue
            writer.close()
            with contextlib.suppress(OSError, TimeoutError):
                await asyncio.wait_for(writer.wait_closed(), _PATIENCE_S)
        protocol = "SSL" if is_tls else "PLAINTEXT"
        options = {"security_protocol": protocol, "ssl_context": context}
        try:
            await _close(await _connect(host, port, options))
        except NO_ANSWER:
            if is_tls:
                return protocol, ()
            continue
        # Some brokers take a handshake though they want no login; one that wants it answers nothing else before.
        if await _answer(host, port, options, MetadataRequest([])):
            return protocol, ()
        answer = await _answer(host, port, options, SaslHandShakeRequest("PLAIN"))
        return (f"SASL_{protocol}", tuple(answer.enabled_mechanisms)) if answer else (protocol, ())
    return None


async def _listens(host: str, port: int) -> bool:
    try:
        _, writer = await asyncio.wait_for(asyncio.open_connection(host, port), _PATIENCE_S)
    except (OSError, TimeoutError) as error:
        return not isinstance(error, ConnectionRefusedError)
    writer.close()
    return True


async def _answer(host: str, port: int, options: dict[str, Any], request: Any) -> Any:
    """Return the answer to the first request of a connection without a login; None if there is none."""
    try:
        connection = await _connect(host, port, options)
        try:
            return await asyncio.wait_for(connection.send(request), _PATIENCE_S)
        finally:
            await _close(connection)
    except NO_ANSWER:
        return None


async def _connect(host: str, port: int, options: dict[str, Any]) -> AIOKafkaConnection:
    async with asyncio.timeout(_PATIENCE_S):
        limit_ms = int(_PATIENCE_S * 1000)
        return await create_conn(host, port, request_timeout_ms=limit_ms, **_without_servers(options))


def _without_servers(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name != "bootstrap_servers"}


async def _close(connection: AIOKafkaConnection) -> None:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(asyncio.shield(connection.close()), _PATIENCE_S)


def _certificate(kafka: KafkaSettings, where: str, error: ssl.SSLCertVerificationError) -> str:
    text = error.verify_message or str(error)
    for part, meaning in _CERTIFICATE_WRONG:
        if part in text.lower():
            return f"the certificate of the broker at {where} {meaning} ({text})"
    trusted = f"kafka.ssl_cafile={kafka.ssl_cafile}" if kafka.ssl_cafile else "the system's certificates"
    return (
        f"the certificate of the broker at {where} is signed by nobody in {trusted} ({text}); set kafka.ssl_cafile to "
        "the certificate of the authority that signed it"
    )


def _named(error: BaseException) -> str:
    text = str(error).removeprefix(f"{type(error).__name__}: ")
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
