"""Creates and checks topics through the broker's admin API, and asks which rights a worker lacks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from aiokafka import errors
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, NewTopic
from aiokafka.client import CoordinationType

from handlers.errors import counted
from streams.kafka.aiokafka_internals import client_of
from streams.kafka.broker_requests import Operation, allows, described_group, described_topics
from streams.kafka.connection import broker_answering, is_passing, unavailable
from streams.kafka.group_refusals import NO_COORDINATOR, NOT_AUTHORIZED, refusal
from streams.kafka.patient_connections import PatientConnections
from streams.kafka.topics import TopicProblem, Topics, TopicsNotReady, TopicsRefused, refusal_of
from streams.settings import KafkaSettings

__all__ = ["Rights", "TopicsNotReady", "TopicsRefused", "check_rights", "check_topics", "create_topics"]

_ADMIN_TIMEOUT_S = 15.0
_RIGHTS_TIMEOUT_S = 10.0
_AGAIN_S = 0.2
_GROUP_CODES = frozenset({NOT_AUTHORIZED, NO_COORDINATOR, errors.InvalidGroupIdError.errno})
_LOADING, _MOVED = errors.GroupLoadInProgressError.errno, errors.NotCoordinatorForGroupError.errno
_NOT_READY = frozenset({_LOADING, _MOVED, NO_COORDINATOR})
_UNANSWERED = (errors.KafkaError, NotImplementedError, TimeoutError)
"""Errors of a broker that does not know a request or its version."""


@dataclass(frozen=True, slots=True)
class Rights:
    """The missing rights, as far as the broker reports them."""

    topics: list[TopicProblem]
    group: str | None
    """Why the group cannot be joined, as a sentence."""
    is_told: bool
    """Whether the broker told all that was asked."""
    members: int | None = field(default=None, compare=False)
    """How many workers are in the group; None where that was not asked or told."""


class GroupRights(NamedTuple):
    """What a broker says of a group: why it cannot be joined, whether rights were told, and how many members it has."""

    refusal: str | None
    is_told: bool
    members: int | None = None


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
                    f"has {counted(count, 'partition')}, kafka.partitions asks for {kafka.partitions}",
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
        group = await group_rights(client_of(admin), kafka) if of_group else GroupRights(None, True)
    return Rights(lacking, group.refusal, are_told and group.is_told, group.members)


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
        except (errors.KafkaError, TimeoutError) as error:
            if not isinstance(error, TimeoutError) and not is_passing(error):
                raise
            if asyncio.get_running_loop().time() > until:
                raise await unavailable(kafka, error, _ADMIN_TIMEOUT_S) from error
        else:
            return {topic["topic"]: len(topic["partitions"]) for topic in topics}
        await asyncio.sleep(_AGAIN_S)


async def _ask_controller(
    admin: AIOKafkaAdminClient, kafka: KafkaSettings, topic: str, ask: Callable[[], Awaitable[Any]]
) -> None:
    """Change topics, of which `topic` is the first.

    Raises:
        TopicsRefused: permanent until the cause is removed; the cluster refuses.
    """
    answers: Iterable[tuple[Any, ...]]
    cluster = client_of(admin).cluster
    try:
        if cluster.controller is None:
            raise errors.NotControllerError
        answers = (await ask()).topic_errors
    except (errors.KafkaError, TimeoutError) as error:
        has_none = isinstance(error, TimeoutError) or is_passing(error)
        code = errors.NotControllerError.errno if has_none else getattr(error, "errno", None)
        answers = [(topic, code, str(error))]
    refused = [entry for entry in answers if entry[1] not in (0, errors.TopicAlreadyExistsError.errno)]
    if not refused:
        return
    brokers = len(cluster.brokers())
    lines = [refusal_of(kafka, name, code, (more or ("",))[0] or "", brokers) for name, code, *more in refused]
    raise TopicsRefused("\n".join(dict.fromkeys(lines)))


async def topic_rights(client: Any, kafka: KafkaSettings, tasks: Iterable[str]) -> tuple[list[TopicProblem], bool]:
    """Return the topics to which a right is missing, and whether the broker reported on each that exists."""
    topics, tasks = Topics(kafka.topic_prefix), list(tasks)
    needed: dict[str, Operation] = dict.fromkeys(topics.all_of(tasks), "write")
    needed |= dict.fromkeys(map(topics.requests, tasks), "read")
    try:
        async with asyncio.timeout(_RIGHTS_TIMEOUT_S):
            while True:
                with suppress(errors.NodeNotReadyError):  # the next try asks another broker
                    described = await described_topics(client, client.get_random_node(), sorted(needed))
                    break
                await asyncio.sleep(_AGAIN_S)
    except _UNANSWERED:
        return [], False
    lacking, is_told = [], True
    for topic in described:
        name, code = topic["topic"], topic["error_code"]
        if code == errors.TopicAuthorizationFailedError.errno:
            lacking.append(TopicProblem.not_allowed(name, kafka.sasl_username))
        elif code == 0:
            allowed = allows(topic["authorized_operations"], needed[name])
            is_told &= allowed is not None
            if allowed is False:
                lacking.append(TopicProblem.lacking(name, needed[name], kafka.sasl_username))
    return lacking, is_told


async def group_rights(client: Any, kafka: KafkaSettings) -> GroupRights:
    """Ask whether the group can be joined, and who is in it."""
    code = NO_COORDINATOR
    try:
        async with asyncio.timeout(_RIGHTS_TIMEOUT_S):
            # The first group of a cluster, or the first question after an election, takes a moment.
            while True:
                with suppress(errors.GroupCoordinatorNotAvailableError, errors.NodeNotReadyError):
                    node = await client.coordinator_lookup(CoordinationType.GROUP, kafka.group_id)
                    code = 0
                    group = await described_group(client, node, kafka.group_id)
                    if group["error_code"] not in _NOT_READY:
                        break
                await asyncio.sleep(_AGAIN_S)
    except _UNANSWERED as error:
        code = getattr(error, "errno", None) or code  # a TimeoutError is an OSError, whose number is None
        return GroupRights(refusal(code, kafka), True) if code in _GROUP_CODES else GroupRights(None, False)
    if group["error_code"] in _GROUP_CODES:
        return GroupRights(refusal(group["error_code"], kafka), True)
    allowed = allows(group["authorized_operations"], "read")
    why_not = refusal(NOT_AUTHORIZED, kafka) if allowed is False else None
    return GroupRights(why_not, allowed is not None, len(group["members"]))
