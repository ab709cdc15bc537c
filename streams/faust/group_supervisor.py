"""Supervises a consumer's membership in its group: a refusal is logged and retried, or ends the worker.

aiokafka reports a coordinator's refusal to the next call of its user, and Faust makes no call before it has
partitions. So a worker that may not join would wait for ever in silence. docs/decisions/group-membership.md says what
of aiokafka is relied on.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from aiokafka import errors
from aiokafka.client import ConnectionGroup, CoordinationType
from aiokafka.protocol.group import HeartbeatRequest, JoinGroupRequest, LeaveGroupRequest, SyncGroupRequest

from handlers.logger import get_logger
from streams.kafka import group_refusals
from streams.kafka.broker_requests import described_group
from streams.kafka.group_refusals import FENCED, GroupRefused, refusal
from streams.kafka.topics import TopicProblem

if TYPE_CHECKING:
    from streams.faust.membership import Membership, State
    from streams.kafka.aiokafka_internals import Coordination

log = get_logger(__name__)

_FIRST_PAUSE_S = 1.0
_LONGEST_PAUSE_S = 15.0
_LOOK_EVERY_S = 1.0
_SAY_AFTER_S = 5.0
"""How long a worker waits for its group before that is logged, in seconds; then doubled each time."""
_ASK_S = 5.0
_MISSING_REFRESH_S = 2.0
_LEAVE_S = 1.0


class Supervisor:
    """Supervises the group coordination of one consumer, in that consumer's thread.

    From its creation on it stands between aiokafka's coordinator and the brokers.
    """

    def __init__(self, coordination: Coordination, membership: Membership) -> None:
        self._membership = membership
        self._kafka = membership.kafka
        self._coordination = coordination
        self._coordinator, self._client = coordination.coordinator, coordination.client
        self._send, self._ensure_active_group = coordination.take_over(
            send=self._observe, join=self._unless_replaced, refused=self._refused
        )
        self._code = 0
        """The error code of the coordinator's latest answer."""
        self._is_joining = False
        """Whether a join is not answered yet."""
        self._member_id = ""
        """The latest member id that a coordinator gave this member."""
        self._pause_s = _FIRST_PAUSE_S
        """How long to wait after the latest refusal."""
        self._since = time.monotonic()
        """When the present state began."""
        self._say_at = self._since + _SAY_AFTER_S
        self._refresh_at = 0.0
        self._unseen: frozenset[str] = frozenset()

    async def leave_while_joining(self) -> None:
        """Withdraw a join that is not answered yet, which can take minutes.

        Uses another connection, as requests of one connection are answered in order. A static member does not leave:
        its place is kept for it.
        """
        closing, member_id = self._coordination.closing, self._coordinator.member_id
        if not self._is_joining or closing.done():
            return
        closing.set_result(None)  # or it would join again
        if not member_id or self._kafka.group_instance_id:
            return
        request = LeaveGroupRequest(self._kafka.group_id, member_id)
        try:
            async with asyncio.timeout(_LEAVE_S):
                await self._client.send(self._coordinator.coordinator_id, request)
        except (errors.KafkaError, TimeoutError) as error:
            log.warning("group_not_left", group=self._kafka.group_id, error=repr(error))

    async def watch(self) -> None:
        """Log what keeps this worker waiting, and which topics are missing, until the consumer is being stopped."""
        closing = self._coordination.closing
        while not (await asyncio.wait([closing], timeout=_LOOK_EVERY_S))[0]:
            if self._coordination.has_broken_off:
                self._end("the coordination of the consumer group broke off; its error is logged above")
                return
            self._look_at_topics()
            await self._look_at_group()

    async def _observe(self, request: Any) -> Any:
        await self._set_limit(request)
        if is_join := isinstance(request, JoinGroupRequest):
            if self._membership.state != "refused":
                self._enter("joining")
            self._is_joining = True
        try:
            response = await self._send(request)
        finally:
            if is_join:
                self._is_joining = False
        self._code = getattr(response, "error_code", self._code)
        if isinstance(request, SyncGroupRequest | HeartbeatRequest) and self._code == 0:
            self._member_id = self._coordinator.member_id
            if self._membership.state != "joined":
                if self._membership.reason:
                    log.info("group_joined", group=self._kafka.group_id)
                self._enter("joined")
        return response

    async def _set_limit(self, request: Any) -> None:
        """Set how long the coordinator may take to answer before its connection is closed and made again.

        aiokafka has one limit for all requests. A join, and a request sent after it, waits for other members.

        Raises:
            NodeNotReadyError: retryable; the coordinator cannot be reached, and is looked up again.
        """
        node = self._coordinator.coordinator_id
        if node is None:
            return
        if not await self._client.ready(node, group=ConnectionGroup.COORDINATION):
            self._coordinator.coordinator_dead()
            raise errors.NodeNotReadyError(f"coordinator {node} of the group cannot be reached")
        limit_s = min(self._kafka.request_timeout_s, self._kafka.session_timeout_s / 2)
        if self._is_joining or isinstance(request, JoinGroupRequest | SyncGroupRequest):
            limit_s = self._kafka.rebalance_timeout_s + self._kafka.request_timeout_s
        self._coordination.limit_answers(node, limit_s)

    def _enter(self, state: State, reason: str = "") -> None:
        if self._membership.state != state:
            self._since = time.monotonic()
            self._say_at = self._since + _SAY_AFTER_S
        self._membership.state, self._membership.reason = state, reason

    async def _refused(self, error: Exception) -> None:
        """Log why a coordinator refuses this member, and return when to try again; never where that cannot help."""
        # Where the error is newer than aiokafka, it has no number there.
        code = getattr(error, "errno", 0) or self._code
        members: list[str] = []
        if code == FENCED:
            members = _named(await self._holders(), "member_id")
        elif code in (group_refusals.INCONSISTENT_PROTOCOL, group_refusals.FULL):
            members = _named(await self._described(), "client_id")
        reason = refusal(code, self._kafka, members=members)
        if code in group_refusals.NEVER_PASS:
            await self._give_up(reason)
            return
        is_news = self._membership.reason != reason
        self._pause_s = _FIRST_PAUSE_S if is_news else min(2 * self._pause_s, _LONGEST_PAUSE_S)
        now = time.monotonic()
        self._enter("refused", reason)
        if is_news or now >= self._say_at:
            log.error("group_refused", reason=reason, next_try_s=self._pause_s)
            self._say_at = now + max(4 * self._pause_s, _SAY_AFTER_S)
        await asyncio.wait([self._coordination.closing], timeout=self._pause_s)
        await self._coordination.restart()

    async def _unless_replaced(self, subscription: Any, previous: Any) -> Any:
        """Rejoin the group, unless another worker has this one's instance id: that one is newer."""
        was_forgotten = self._member_id and self._coordinator.member_id == JoinGroupRequest.UNKNOWN_MEMBER_ID
        if self._kafka.group_instance_id and was_forgotten:
            holders = await self._holders()
            if any(one["member_id"] != self._member_id for one in holders):
                await self._give_up(refusal(FENCED, self._kafka, members=_named(holders, "member_id")))
                return None
            self._member_id = ""  # this worker was only silent for too long
        return await self._ensure_active_group(subscription, previous)

    async def _give_up(self, reason: str) -> None:
        self._end(reason)
        await asyncio.wait([self._coordination.closing])

    def _end(self, reason: str) -> None:
        self._enter("refused", reason)
        self._membership.on_fatal(GroupRefused(reason))

    async def _holders(self) -> list[dict[str, Any]]:
        """Return the member that has this worker's instance id; none where it is not known."""
        ours = self._kafka.group_instance_id
        return [one for one in await self._described() if one["group_instance_id"] == ours]

    async def _described(self) -> list[dict[str, Any]]:
        node = self._coordinator.coordinator_id
        if node is None:
            return []
        try:
            async with asyncio.timeout(_ASK_S):
                group = await described_group(self._client, node, self._kafka.group_id)
        except (errors.KafkaError, NotImplementedError, TimeoutError) as error:
            log.warning("group_not_described", group=self._kafka.group_id, error=repr(error))
            return []
        return group["members"]  # type: ignore[no-any-return]

    def _look_at_topics(self) -> None:
        if not self._coordination.has_asked_for(self._membership.topics):
            return  # not subscribed to yet
        cluster = self._client.cluster
        unseen = frozenset(topic for topic in self._membership.topics if not cluster.partitions_for_topic(topic))
        # The client does not see a new topic until it has asked for it, so this takes two looks.
        unseen, self._unseen = unseen & self._unseen, unseen
        hidden = unseen & cluster.unauthorized_topics
        before = self._membership.missing_topics, self._membership.hidden_topics
        self._membership.missing_topics, self._membership.hidden_topics = unseen - hidden, hidden
        for topic in sorted(unseen - hidden - before[0]):
            log.warning("request_topic_missing", topic=topic, cure="run: inferstream topics create")
        for topic in sorted(hidden - before[1]):
            problem = TopicProblem.not_allowed(topic, self._kafka.sasl_username)
            log.error("request_topic_unreadable", reason=str(problem))
        for topic in sorted((before[0] | before[1]) - unseen):
            log.info("request_topic_back", topic=topic)
        if self._unseen and time.monotonic() >= self._refresh_at:
            self._refresh_at = time.monotonic() + _MISSING_REFRESH_S
            self._client.force_metadata_update()

    async def _look_at_group(self) -> None:
        state = self._membership.state
        if self._coordinator.coordinator_id is None:
            if state in ("connecting", "joining", "joined"):
                self._enter("searching")
        elif state == "searching":
            self._enter("joined" if self._member_id and self._coordinator.member_id else "joining")
        if self._membership.state not in ("searching", "joining") or time.monotonic() < self._say_at:
            return
        waited_s = time.monotonic() - self._since
        self._say_at = time.monotonic() + 2 * waited_s
        reason = await self._why_not_joined(state)
        self._membership.reason = reason
        is_ordinary = state == "joining" and waited_s < self._kafka.rebalance_timeout_s
        tell = log.info if is_ordinary else log.warning
        tell("group_keeps_waiting", reason=reason, waited_s=round(waited_s))

    async def _why_not_joined(self, state: State) -> str:
        if self._membership.is_answering:
            return (
                f"requests in work are answered before this worker joins group {self._kafka.group_id!r} again, "
                f"for {self._kafka.answer_in_rebalance_s:g} s at most (kafka.rebalance_timeout_s)"
            )
        node, group_id = self._coordinator.coordinator_id, self._kafka.group_id
        try:
            async with asyncio.timeout(_ASK_S):
                named = await self._client.coordinator_lookup(CoordinationType.GROUP, group_id)
        except errors.GroupCoordinatorNotAvailableError:
            reason = refusal(group_refusals.NO_COORDINATOR, self._kafka)
        except (errors.KafkaError, OSError, TimeoutError) as error:
            reason = f"no coordinator of group {group_id!r} can be asked for: {error!r}"
        else:
            reason = f"the coordinator of group {group_id!r} is named by the brokers and does not answer"
            if state == "joining" and node is not None and node != named:
                self._coordination.disconnect(node)  # it is not the coordinator any more, and may be silent
        if state == "searching":
            return reason
        return (
            f"group {group_id!r} waits for its other members to finish what they have in work, "
            f"up to the longest kafka.rebalance_timeout_s among them (here {self._kafka.rebalance_timeout_s:g} s)"
        )


def _named(members: list[dict[str, Any]], by: str) -> list[str]:
    return sorted(f"{one[by]} at {str(one['client_host']).lstrip('/')}" for one in members[:10])
