"""Asks the broker which rights a worker lacks, without reading or writing anything."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

from aiokafka import errors
from aiokafka.client import CoordinationType

from streams.kafka.broker_requests import (
    READ,
    WRITE,
    allows,
    first_group,
    group_description,
    topics_description,
)
from streams.kafka.group_refusals import NO_COORDINATOR, NOT_AUTHORIZED, refusal
from streams.kafka.topic_problems import TopicProblem
from streams.kafka.topics import Topics
from streams.settings import KafkaSettings

_ANSWER_S = 10.0
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


async def topic_rights(
    client: Any, kafka: KafkaSettings, tasks: Iterable[str]
) -> tuple[list[TopicProblem], bool]:
    """Return the topics to which a right is missing, and whether the broker reported on each that exists."""
    topics, tasks = Topics(kafka.topic_prefix), list(tasks)
    needed = dict.fromkeys(topics.all_of(tasks), WRITE)
    needed |= dict.fromkeys(map(topics.requests, tasks), READ)
    try:
        async with asyncio.timeout(_ANSWER_S):
            response = await _ask_any(client, topics_description(sorted(needed)))
    except _UNANSWERED:
        return [], False
    lacking, is_told = [], True
    for topic in response.to_object()["topics"]:
        name, code = topic["topic"], topic["error_code"]
        operation = needed[name]
        if code == errors.TopicAuthorizationFailedError.errno:
            lacking.append(TopicProblem.not_allowed(name, kafka.sasl_username))
        elif code == 0:
            allowed = allows(topic["authorized_operations"], operation)
            is_told &= allowed is not None
            if allowed is False:
                verb: Literal["read", "write"] = "read" if operation == READ else "write"
                lacking.append(TopicProblem.lacking(name, verb, kafka.sasl_username))
    return lacking, is_told


async def _ask_any(client: Any, question: Any) -> Any:
    """Return the answer of any broker; the next call asks another one."""
    while True:
        with suppress(errors.NodeNotReadyError):
            return await client.send(client.get_random_node(), question)
        await asyncio.sleep(_AGAIN_S)


async def group_rights(client: Any, kafka: KafkaSettings) -> tuple[str | None, bool]:
    """Return why the group cannot be joined, None where it can be, and whether the broker reported it."""
    code = NO_COORDINATOR
    try:
        async with asyncio.timeout(_ANSWER_S):
            # The first group of a cluster, or the first question after an election, takes a moment.
            while True:
                with suppress(errors.GroupCoordinatorNotAvailableError, errors.NodeNotReadyError):
                    node = await client.coordinator_lookup(CoordinationType.GROUP, kafka.group_id)
                    code = 0
                    group = first_group(await client.send(node, group_description(kafka.group_id)))
                    if group["error_code"] not in _NOT_READY:
                        break
                await asyncio.sleep(_AGAIN_S)
    except _UNANSWERED as error:
        code = getattr(error, "errno", None) or code  # a TimeoutError is an OSError, whose number is None
        return (refusal(code, kafka).reason, True) if code in _GROUP_CODES else (None, False)
    if group["error_code"] in _GROUP_CODES:
        return refusal(group["error_code"], kafka).reason, True
    allowed = allows(group["authorized_operations"], READ)
    return (refusal(NOT_AUTHORIZED, kafka).reason if allowed is False else None), allowed is not None
