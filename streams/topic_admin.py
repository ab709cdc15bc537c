"""Creates the topics and checks that they are there, through the broker's admin interface."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager

from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, NewTopic
from aiokafka.errors import KafkaError

from streams.kafka import broker_answering, connection_options
from streams.settings import KafkaSettings
from streams.topic_problems import TopicProblem, TopicsNotReady
from streams.topics import Topics, TopicSpec, expected_topics

__all__ = ["TopicProblem", "TopicsNotReady", "check_topics", "create_topics", "specs"]

_TOPIC_ALREADY_EXISTS = 36
_ADMIN_TIMEOUT_S = 15.0


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
        KafkaError: the broker refused, with its own reason.
    """
    wanted = specs(kafka, tasks)
    async with _admin(kafka) as admin:
        found = await _partition_counts(admin)
        missing = [spec for spec in wanted.values() if spec.name not in found]
        short = [spec for spec in wanted.values() if found.get(spec.name, spec.partitions) < spec.partitions]
        if missing:
            response = await admin.create_topics(
                [NewTopic(spec.name, spec.partitions, spec.replication_factor) for spec in missing]
            )
            _raise_refusals(response.topic_errors, tolerated=_TOPIC_ALREADY_EXISTS)
        if short:
            response = await admin.create_partitions(
                {spec.name: NewPartitions(spec.partitions) for spec in short}
            )
            _raise_refusals(response.topic_errors)
    return sorted(spec.name for spec in missing + short)


async def check_topics(kafka: KafkaSettings, tasks: Iterable[str]) -> list[TopicProblem]:
    """Return what is wrong with the topics, empty when all are there with the expected partition count.

    Raises:
        BrokerUnavailable: retryable; no broker answered.
    """
    async with _admin(kafka) as admin:
        found = await _partition_counts(admin)
    return _compare(found, specs(kafka, tasks))


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
        elif count > spec.partitions:
            problems.append(
                TopicProblem(
                    name,
                    f"has {count} partitions, kafka.partitions says {spec.partitions}",
                    f"set kafka.partitions={count} (Kafka cannot take partitions away)",
                )
            )
    return problems


@asynccontextmanager
async def _admin(kafka: KafkaSettings) -> AsyncIterator[AIOKafkaAdminClient]:
    admin = AIOKafkaAdminClient(**connection_options(kafka), request_timeout_ms=int(_ADMIN_TIMEOUT_S * 1000))
    try:
        async with broker_answering(kafka):
            await admin.start()
        yield admin
    finally:
        await admin.close()


async def _partition_counts(admin: AIOKafkaAdminClient) -> dict[str, int]:
    # Asking for all topics rather than for ours: a broker with auto-creation would create what it is asked for.
    return {topic["topic"]: len(topic["partitions"]) for topic in await admin.describe_topics()}


def _raise_refusals(topic_errors: Iterable[tuple[object, ...]], tolerated: int = 0) -> None:
    refusals = [
        f"{entry[0]}: error {entry[1]} {entry[2] or ''}"
        for entry in topic_errors
        if entry[1] not in (0, tolerated)
    ]
    if refusals:
        raise KafkaError(f"the broker refused: {'; '.join(refusals)}")
