"""Creates and checks topics through the broker's admin API."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, NewTopic
from aiokafka.errors import KafkaError, NotControllerError, TopicAlreadyExistsError

from streams.kafka.aiokafka_internals import client_of
from streams.kafka.connection import broker_answering, is_passing, unavailable
from streams.kafka.patient_connections import PatientConnections
from streams.kafka.rights import Rights, group_rights, topic_rights
from streams.kafka.topic_problems import TopicProblem, TopicsNotReady, TopicsRefused, refusal_of
from streams.kafka.topics import Topics
from streams.settings import KafkaSettings

__all__ = ["TopicProblem", "TopicsNotReady", "TopicsRefused", "check_rights", "check_topics", "create_topics"]

_ADMIN_TIMEOUT_S = 15.0
_PAUSE_S = 0.3


async def create_topics(kafka: KafkaSettings, tasks: Iterable[str]) -> list[str]:
    """Create the topics that are missing, grow those with too few partitions, and return the names touched.

    Raises:
        BrokerUnavailable: retryable; no broker answered.
        TopicsRefused: the broker refuses; says why and what to do.
    """
    wanted = Topics(kafka.topic_prefix).all_of(tasks)
    async with _admin(kafka) as admin:
        found = await _partition_counts(admin, kafka)
        missing = [name for name in wanted if name not in found]
        short = [name for name in wanted if found.get(name, kafka.partitions) < kafka.partitions]
        if missing:
            new = [NewTopic(name, kafka.partitions, kafka.replication_factor) for name in missing]
            await _ask_controller(admin, kafka, missing[0], lambda: admin.create_topics(new))
        if short:
            more = dict.fromkeys(short, NewPartitions(kafka.partitions))
            await _ask_controller(admin, kafka, short[0], lambda: admin.create_partitions(more))
    return sorted(missing + short)


async def check_topics(kafka: KafkaSettings, tasks: Sequence[str]) -> list[TopicProblem]:
    """Return what is wrong with the topics, empty when all exist with enough partitions.

    More than kafka.partitions is fine: partitions can be added to a topic, and cannot be removed.

    Raises:
        BrokerUnavailable: retryable; no broker answered.
    """
    names, hidden = Topics(kafka.topic_prefix).all_of(tasks), {}
    async with _admin(kafka) as admin:
        found = await _partition_counts(admin, kafka)
        if not found.keys() >= set(names):
            lacking, _ = await topic_rights(client_of(admin), kafka, tasks)
            hidden = {problem.topic: problem for problem in lacking}
    problems = []
    for name in names:
        count = found.get(name)
        if count is None:
            problems.append(hidden.get(name) or TopicProblem.missing(name))
        elif count < kafka.partitions:
            problems.append(
                TopicProblem(
                    name,
                    f"has {count} partitions, kafka.partitions asks for {kafka.partitions}",
                    f"run: inferstream topics create (adds partitions), or set kafka.partitions={count}",
                )
            )
    return problems


async def check_rights(kafka: KafkaSettings, tasks: Sequence[str], *, of_group: bool = True) -> Rights:
    """Ask the broker for this client's rights to the topics of `tasks`, and to the group.

    Raises:
        BrokerUnavailable: retryable; no broker answered.
    """
    async with _admin(kafka) as admin:
        lacking, are_told = await topic_rights(client_of(admin), kafka, tasks)
        group, is_told = await group_rights(client_of(admin), kafka) if of_group else (None, True)
    return Rights(lacking, group, are_told and is_told)


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
    """Return how many partitions each topic has; asks another broker where one is down.

    Asks for all topics, not ours: a broker with auto-creation would create a topic that is asked for.

    Raises:
        BrokerUnavailable: retryable; none has answered in time.
    """
    until = asyncio.get_running_loop().time() + _ADMIN_TIMEOUT_S
    while True:
        try:
            topics = await admin.describe_topics()
        except (KafkaError, TimeoutError) as error:
            if not isinstance(error, TimeoutError) and not is_passing(error):
                raise
            if asyncio.get_running_loop().time() > until:
                raise await unavailable(kafka, error, _ADMIN_TIMEOUT_S) from error
        else:
            return {topic["topic"]: len(topic["partitions"]) for topic in topics}
        await asyncio.sleep(_PAUSE_S)


async def _ask_controller(
    admin: AIOKafkaAdminClient, kafka: KafkaSettings, topic: str, ask: Callable[[], Awaitable[Any]]
) -> None:
    """Change topics, of which `topic` is the first.

    Raises:
        TopicsRefused: permanent until the cause is removed; the cluster refuses.
    """
    errors: Iterable[tuple[Any, ...]]
    cluster = client_of(admin).cluster
    try:
        if cluster.controller is None:
            raise NotControllerError
        errors = (await ask()).topic_errors
    except (KafkaError, TimeoutError) as error:
        has_none = isinstance(error, TimeoutError) or is_passing(error)
        code = NotControllerError.errno if has_none else getattr(error, "errno", None)
        errors = [(topic, code, str(error))]
    refused = [entry for entry in errors if entry[1] not in (0, TopicAlreadyExistsError.errno)]
    if not refused:
        return
    brokers = len(cluster.brokers())
    lines = [
        refusal_of(kafka, name, code, (more or ("",))[0] or "", brokers) for name, code, *more in refused
    ]
    raise TopicsRefused("\n".join(dict.fromkeys(lines)))
