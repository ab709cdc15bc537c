"""Requests that aiokafka 0.14 lacks, or has only in older versions: rights, group members and topic ids.

Source: https://kafka.apache.org/protocol (Metadata versions 8 and 12, DescribeGroups version 4).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any, Literal

from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import (
    Array,
    Boolean,
    Bytes,
    CompactArray,
    CompactString,
    Int16,
    Int32,
    Int64,
    Schema,
    String,
    TaggedFields,
)

from handlers.logger import get_logger

log = get_logger(__name__)

Operation = Literal["read", "write"]
_BITS: dict[Operation, int] = {"read": 3, "write": 4}
"""Bits of `authorized_operations`."""
_UNKNOWN_RIGHTS = -(2**31)
"""The value of `authorized_operations` of a broker that does not report them."""

_ASK_IDS_S = 5.0
"""Longest wait for topic ids: a group waits for its members meanwhile."""

_METADATA, _DESCRIBE_GROUPS = 3, 15
_TEXT, _COMPACT_TEXT = String("utf-8"), CompactString("utf-8")
_TAGS = ("tags", TaggedFields)
_ID = (("id_high", Int64), ("id_low", Int64))


def _request(name: str, key: int, version: int, question: Schema, answer: Schema) -> Any:
    """Return a class of aiokafka's requests, whose objects hold the values of `question`."""

    class Answer(Response):  # type: ignore[misc]
        API_KEY, API_VERSION, SCHEMA = key, version, answer

    class Question(RequestStruct):  # type: ignore[misc]
        API_KEY, API_VERSION, SCHEMA = key, version, question
        RESPONSE_TYPE, FLEXIBLE_VERSION = Answer, "tags" in question.names

    class Ask(Request[Question]):  # type: ignore[misc]
        API_KEY = key

        def __init__(self, *values: Any) -> None:
            self.values = values

        def build(self, request_struct_class: type[Question]) -> Question:
            return request_struct_class(*self.values)

    Ask.__name__ = name  # aiokafka names requests in its log
    return Ask


def _metadata(array: Any, text: Any, *, topic_id: Iterable[Any], tags: Iterable[Any], last: Any) -> Schema:
    partition = (
        *(("error_code", Int16), ("partition", Int32), ("leader", Int32), ("leader_epoch", Int32)),
        *((name, array(Int32)) for name in ("replicas", "isr", "offline_replicas")),
        *tags,
    )
    topic = (
        *(("error_code", Int16), ("topic", text), *topic_id, ("is_internal", Boolean)),
        *(("partitions", array(*partition)), ("authorized_operations", Int32), *tags),
    )
    broker = (("node_id", Int32), ("host", text), ("port", Int32), ("rack", text), *tags)
    return Schema(
        *(("throttle_time_ms", Int32), ("brokers", array(*broker)), ("cluster_id", text)),
        *(("controller_id", Int32), ("topics", array(*topic)), last),
    )


_TopicRights = _request(
    "TopicRightsRequest",
    _METADATA,
    8,
    Schema(
        ("topics", Array(_TEXT)),
        ("allow_auto_topic_creation", Boolean),
        ("include_cluster_authorized_operations", Boolean),
        ("include_topic_authorized_operations", Boolean),
    ),
    _metadata(Array, _TEXT, topic_id=(), tags=(), last=("cluster_authorized_operations", Int32)),
)

_TopicIds = _request(
    "TopicIdsRequest",
    _METADATA,
    12,
    Schema(
        ("topics", CompactArray(*_ID, ("topic", _COMPACT_TEXT), _TAGS)),
        ("allow_auto_topic_creation", Boolean),
        ("include_topic_authorized_operations", Boolean),
        _TAGS,
    ),
    _metadata(CompactArray, _COMPACT_TEXT, topic_id=_ID, tags=(_TAGS,), last=_TAGS),
)

_MEMBER = (
    *((name, _TEXT) for name in ("member_id", "group_instance_id", "client_id", "client_host")),
    *(("metadata", Bytes), ("assignment", Bytes)),
)
_GROUP = (
    ("error_code", Int16),
    *((name, _TEXT) for name in ("group", "state", "protocol_type", "protocol")),
    *(("members", Array(*_MEMBER)), ("authorized_operations", Int32)),
)
_GroupDescription = _request(
    "GroupDescriptionRequest",
    _DESCRIBE_GROUPS,
    4,
    Schema(("groups", Array(_TEXT)), ("include_authorized_operations", Boolean)),
    Schema(("throttle_time_ms", Int32), ("groups", Array(*_GROUP))),
)


async def described_topics(client: Any, node: int, topics: list[str]) -> list[dict[str, Any]]:
    """Ask a broker which of these topics exist, and for this client's rights to each; creates none."""
    response = await client.send(node, _TopicRights(topics, False, False, True))
    return response.to_object()["topics"]  # type: ignore[no-any-return]


async def described_group(client: Any, node: int, group_id: str) -> dict[str, Any]:
    """Ask the coordinator of a group for its members, and for this client's rights to it."""
    response = await client.send(node, _GroupDescription([group_id], True))
    return response.to_object()["groups"][0]  # type: ignore[no-any-return]


def allows(authorized_operations: int, operation: Operation) -> bool | None:
    """Return whether `operation` is among these; None where the broker does not report rights."""
    if authorized_operations == _UNKNOWN_RIGHTS:
        return None
    return bool(authorized_operations >> _BITS[operation] & 1)


async def topic_ids(client: Any, topics: Iterable[str]) -> dict[str, str]:
    """Return the ids of those topics that have one; a topic that was made again has another id.

    None where the broker has no ids.
    """
    wanted = sorted(topics)
    if not wanted:
        return {}
    request = _TopicIds([(0, 0, topic, {}) for topic in wanted], False, False, {})
    try:
        async with asyncio.timeout(_ASK_IDS_S):
            answer = await client.send(client.get_random_node(), request)
    except Exception as error:  # noqa: BLE001 - an older broker, or one that is away: offsets tell what they can
        log.debug("topic_ids_unknown", error=repr(error))
        return {}
    return {
        name: f"{high & 0xFFFFFFFFFFFFFFFF:016x}{low & 0xFFFFFFFFFFFFFFFF:016x}"
        for error_code, name, high, low, *_ in answer.topics
        if error_code == 0 and (high, low) != (0, 0)
    }
