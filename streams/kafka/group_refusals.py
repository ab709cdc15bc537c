"""Why a broker refuses a worker as a member of its group: for each error code its meaning and what to do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from streams.settings import KafkaSettings


class GroupRefused(Exception):
    """Raised when this worker cannot be a member of its group and waiting does not help; says what to do."""


NO_COORDINATOR, INCONSISTENT_PROTOCOL, NOT_AUTHORIZED, FULL, FENCED = 15, 23, 30, 81, 82
_REASONS = {
    NO_COORDINATOR: "the brokers have no coordinator for group {kafka.group_id!r}: they need the topic "
    "__consumer_offsets, which they cannot make with fewer brokers than offsets.topic.replication.factor; start the "
    "missing brokers, or lower it",
    INCONSISTENT_PROTOCOL: "group {kafka.group_id!r} has members of another kind, or with another way to share "
    "partitions than ours, roundrobin; stop them, or set kafka.group_id to a group that only workers use",
    24: "the broker takes no group by the name kafka.group_id={kafka.group_id!r}; set another",
    26: "kafka.session_timeout_s={kafka.session_timeout_s:g} is outside what the broker allows, which is "
    "group.min.session.timeout.ms to group.max.session.timeout.ms (6 s to 1800 s where nobody set them); "
    "set kafka.session_timeout_s within",
    NOT_AUTHORIZED: "{user} has no right to read group {kafka.group_id!r}; grant it READ on the group, or set "
    "kafka.group_id to one that it may read",
    69: "group {kafka.group_id!r} is of a kind that this worker cannot join (the broker's newer protocols); "
    "set kafka.group_id to another group",
    FULL: "group {kafka.group_id!r} has as many members as the broker allows (group.max.size); stop a member, "
    "have group.max.size raised, or set kafka.group_id to another group",
    FENCED: "another worker has taken kafka.group_instance_id={kafka.group_instance_id!r}, so this older one stops; "
    "give each worker that runs at the same time an instance id of its own",
}
"""By Kafka's error codes, some of which aiokafka does not know."""
_UNKNOWN = "the broker refuses this worker in group {kafka.group_id!r} with error {code}; look at its log"
NEVER_PASS = frozenset({24, 26, FENCED})
"""Where waiting cannot help; else a right may be granted, or a group shrink."""


def refusal(code: int, kafka: KafkaSettings, *, members: Sequence[str] = ()) -> str:
    """Return the reason for a broker's error code; `members` names those of the group, as far as known."""
    user = f"user {kafka.sasl_username!r}" if kafka.sasl_username else "this client"
    reason = _REASONS.get(code, _UNKNOWN).format(kafka=kafka, user=user, code=code)
    if members and code in _REASONS:
        reason += f"; {'held by' if code == FENCED else 'members'}: {', '.join(members)}"
    return reason
