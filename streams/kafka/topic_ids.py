"""Asks brokers for the ids of topics, by which one that was made again differs from the one before.

Source: Metadata of Kafka's protocol, version 12; aiokafka speaks up to version 5, which has no ids.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import structlog
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import (
    Boolean,
    CompactArray,
    CompactString,
    Int16,
    Int32,
    Int64,
    Schema,
    TaggedFields,
)

log = structlog.get_logger(__name__)

_API_KEY, _VERSION = 3, 12
_ASK_S = 5.0
"""How long a broker may take: a group waits for its members meanwhile."""
_HALVES = (("high", Int64), ("low", Int64))


class _Answer(Response):  # type: ignore[misc]
    API_KEY = _API_KEY
    API_VERSION = _VERSION
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "brokers",
            CompactArray(
                ("node_id", Int32),
                ("host", CompactString("utf-8")),
                ("port", Int32),
                ("rack", CompactString("utf-8")),
                ("tags", TaggedFields),
            ),
        ),
        ("cluster_id", CompactString("utf-8")),
        ("controller_id", Int32),
        (
            "topics",
            CompactArray(
                ("error_code", Int16),
                ("name", CompactString("utf-8")),
                *_HALVES,
                ("is_internal", Boolean),
                (
                    "partitions",
                    CompactArray(
                        ("error_code", Int16),
                        ("partition", Int32),
                        ("leader", Int32),
                        ("leader_epoch", Int32),
                        ("replicas", CompactArray(Int32)),
                        ("isr", CompactArray(Int32)),
                        ("offline", CompactArray(Int32)),
                        ("tags", TaggedFields),
                    ),
                ),
                ("operations", Int32),
                ("tags", TaggedFields),
            ),
        ),
        ("tags", TaggedFields),
    )


class _Question(RequestStruct):  # type: ignore[misc]
    API_KEY = _API_KEY
    API_VERSION = _VERSION
    FLEXIBLE_VERSION = True
    RESPONSE_TYPE = _Answer
    SCHEMA = Schema(
        ("topics", CompactArray(*_HALVES, ("name", CompactString("utf-8")), ("tags", TaggedFields))),
        ("allow_auto_topic_creation", Boolean),
        ("include_topic_authorized_operations", Boolean),
        ("tags", TaggedFields),
    )


class _IdsRequest(Request[_Question]):  # type: ignore[misc]
    API_KEY = _API_KEY

    def __init__(self, topics: Iterable[str]) -> None:
        self._topics: list[Any] = [(0, 0, topic, {}) for topic in topics]

    def build(self, request_struct_class: type[_Question]) -> _Question:
        return request_struct_class(self._topics, False, False, {})


async def topic_ids(client: Any, topics: Iterable[str]) -> dict[str, str]:
    """Return the ids of those topics that have one; none where the broker does not tell ids."""
    wanted = sorted(topics)
    if not wanted:
        return {}
    try:
        async with asyncio.timeout(_ASK_S):
            answer = await client.send(client.get_random_node(), _IdsRequest(wanted))
    except Exception as error:  # noqa: BLE001 - an older broker, or one that is away: offsets tell what they can
        log.debug("topic_ids_unknown", error=repr(error))
        return {}
    return {
        name: f"{high & 0xFFFFFFFFFFFFFFFF:016x}{low & 0xFFFFFFFFFFFFFFFF:016x}"
        for error_code, name, high, low, *_ in answer.topics
        if error_code == 0 and (high, low) != (0, 0)
    }
