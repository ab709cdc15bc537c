"""Creates the topics and checks that they are there, through the broker's admin interface."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, TypeVar

from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, NewTopic
from aiokafka.errors import (
    KafkaError,
    NotControllerError,
    TopicAlreadyExistsError,
    TopicAuthorizationFailedError,
)
from aiokafka.protocol.metadata import MetadataRequest

from streams.kafka.aiokafka_internals import client_of
from streams.kafka.connection import (
    BrokerUnavailable,
    broker_answering,
    is_passing,
    unavailable,
)
from streams.kafka.patient_connections import PatientConnections
from streams.kafka.topic_problems import TopicProblem, TopicsNotReady, TopicsRefused, refusal_of
from streams.kafka.topics import Topics, TopicSpec, expected_topics
from streams.settings import KafkaSettings

__all__ = ["TopicProblem", "TopicsNotReady", "TopicsRefused", "check_topics", "create_topics", "specs"]

T = TypeVar("T")

_ADMIN_TIMEOUT_S = 15.0
_PAUSE_S = 0.3
_SAYS_WHETHER_TO_CREATE = 4
"""Version of the request for metadata from which on a topic that is asked for need not be made thereby."""


def specs(kafka: KafkaSettings, tasks: Iterable[str]) -> dict[str, TopicSpec]:
    """Return the topics that these settings and tasks call for."""
    return expected_topics(
        Topics(kafka.topic_prefix),
        tasks,
        partitions=kafka.partitions,
        replication_factor=kafka.replication_factor,
    )


async def create_topics(kafka: KafkaSettings, tasks: Iterable[str]) -> list[str]:
    """Create the topics that are missing, grow those with too few partitions, and return the names touched.

    Raises:
        BrokerUnavailable: retryable; no broker answered.
        TopicsRefused: the broker refuses; says why and what to do.
    """
    wanted = specs(kafka, tasks)
    async with _admin(kafka) as admin:
        found = await _partition_counts(admin, kafka)
        missing = [spec for spec in wanted.values() if spec.name not in found]
        short = [spec for spec in wanted.values() if found.get(spec.name, spec.partitions) < spec.partitions]
        if missing:
            new = [NewTopic(spec.name, spec.partitions, spec.replication_factor) for spec in missing]
            await _ask_controller(admin, kafka, missing[0].name, lambda: admin.create_topics(new))
        if short:
            more = {spec.name: NewPartitions(spec.partitions) for spec in short}
            await _ask_controller(admin, kafka, short[0].name, lambda: admin.create_partitions(more))
    return sorted(spec.name for spec in missing + short)


async def check_topics(kafka: KafkaSettings, tasks: Iterable[str]) -> list[TopicProblem]:
    """Return what is wrong with the topics, empty when all are there with enough partitions.

    More than kafka.partitions asks for is well: they may have been added to one topic, and cannot be taken away.

    Raises:
        BrokerUnavailable: retryable; no broker answered.
    """
    wanted = specs(kafka, tasks)
    async with _admin(kafka) as admin:
        found = await _partition_counts(admin, kafka)
        unseen = [name for name in wanted if name not in found]
        hidden = await _patiently(kafka, lambda: _hidden(admin, unseen))
    return [
        TopicProblem.not_allowed(problem.topic, kafka.sasl_username) if problem.topic in hidden else problem
        for problem in _compare(found, wanted)
    ]


def _compare(found: Mapping[str, int], wanted: Mapping[str, TopicSpec]) -> list[TopicProblem]:
    problems = []
    for name, spec in wanted.items():
        count = found.get(name)
        if count is None:
            problems.append(TopicProblem.missing(name))
        elif count < spec.partitions:
            problems.append(
                TopicProblem(
                    name,
                    f"has {count} partitions, kafka.partitions asks for {spec.partitions}",
                    f"run: inferstream topics create (adds partitions), or set kafka.partitions={count}",
                )
            )
    return problems


@asynccontextmanager
async def _admin(kafka: KafkaSettings) -> AsyncIterator[AIOKafkaAdminClient]:
    async with AsyncExitStack() as stack:
        async with broker_answering(kafka) as options:
            admin = AIOKafkaAdminClient(**options, request_timeout_ms=int(_ADMIN_TIMEOUT_S * 1000))
            stack.push_async_callback(admin.close)
            await admin.start()
        PatientConnections(client_of(admin))
        yield admin


async def _partition_counts(admin: AIOKafkaAdminClient, kafka: KafkaSettings) -> dict[str, int]:
    # Asking for all topics rather than for ours: a broker with auto-creation would create what it is asked for.
    topics = await _patiently(kafka, admin.describe_topics)
    return {topic["topic"]: len(topic["partitions"]) for topic in topics}


async def _patiently(kafka: KafkaSettings, ask: Callable[[], Awaitable[T]]) -> T:
    """Return the answer of any broker: each time another may be asked, and some may be down.

    Raises:
        BrokerUnavailable: retryable; none has answered in time.
    """
    until = asyncio.get_running_loop().time() + _ADMIN_TIMEOUT_S
    while True:
        try:
            return await ask()
        except (KafkaError, TimeoutError) as error:
            if not isinstance(error, TimeoutError) and not is_passing(error):
                raise
            if asyncio.get_running_loop().time() > until:
                raise await unavailable(kafka, error, _ADMIN_TIMEOUT_S) from error
        await asyncio.sleep(_PAUSE_S)


async def _hidden(admin: AIOKafkaAdminClient, names: list[str]) -> set[str]:
    """Return those of `names` that are not in the list of all topics as the right to describe them is missing."""
    if not names:
        return set()
    client = client_of(admin)
    request = MetadataRequest(names, allow_auto_topic_creation=False)
    answer = await client.send(client.get_random_node(), request)
    if answer.API_VERSION < _SAYS_WHETHER_TO_CREATE:
        return set()
    return {name for code, name, *_ in answer.topics if code == TopicAuthorizationFailedError.errno}


async def _ask_controller(
    admin: AIOKafkaAdminClient, kafka: KafkaSettings, topic: str, ask: Callable[[], Awaitable[Any]]
) -> None:
    """Have topics changed, of which `topic` is the first.

    Raises:
        TopicsRefused: permanent until somebody mends it; the cluster does not, and why.
    """
    errors: Iterable[tuple[Any, ...]]
    try:
        if client_of(admin).cluster.controller is None:
            raise NotControllerError
        errors = (await ask()).topic_errors
    except TimeoutError:
        errors = [(topic, NotControllerError.errno, "")]
    except KafkaError as error:
        code = NotControllerError.errno if is_passing(error) else getattr(error, "errno", None)
        errors = [(topic, code, str(error))]
    refused = [entry for entry in errors if entry[1] not in (0, TopicAlreadyExistsError.errno)]
    if not refused:
        return
    try:
        brokers = len((await _patiently(kafka, admin.describe_cluster))["brokers"])
    except (KafkaError, BrokerUnavailable):
        brokers = 0
    lines = [
        refusal_of(kafka, name, code, (more or ("",))[0] or "", brokers) for name, code, *more in refused
    ]
    raise TopicsRefused("\n".join(dict.fromkeys(lines)))
