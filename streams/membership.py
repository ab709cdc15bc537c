"""A worker's place in its consumer group: what is known of it, and the consumer's thread that takes and leaves it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Literal

import structlog

from streams.commits import CommittingThread
from streams.group_refusals import GroupRefused
from streams.group_supervisor import Supervisor
from streams.settings import KafkaSettings
from streams.topic_problems import TopicProblem

log = structlog.get_logger(__name__)

State = Literal["connecting", "searching", "joining", "refused", "joined"]

_LONGEST_PAUSE_S = 15.0
_LEAVE_S = 1.5
"""How long a coordinator may take to let this worker go, in seconds; the group finds out by itself as well."""


class Membership:
    """What is known of this worker's place in its group. Written by the consumer's thread; any thread may read it."""

    def __init__(
        self, kafka: KafkaSettings, topics: Iterable[str], on_fatal: Callable[[GroupRefused], None]
    ) -> None:
        """`on_fatal` is called in the consumer's thread where this worker cannot be a member any more."""
        self.kafka = kafka
        self.topics = frozenset(topics)
        self.on_fatal = on_fatal
        self.state: State = "connecting"
        self.reason = ""
        """Why it is not joined, as a sentence; empty where nothing is wrong."""
        self.missing_topics: frozenset[str] = frozenset()
        """Those of its topics that the brokers do not have, or do not let it read."""
        self.unreadable: dict[str, float] = {}
        """The topics that it may not read any more, with the pause before it tries again; set on the event loop."""

    def may_read(self, topic: str) -> None:
        """Note that a topic could be read."""
        if self.unreadable.pop(topic, None) is not None:
            log.info("request_topic_readable", topic=topic)

    def may_not_read(self, topic: str) -> float:
        """Tell that the right to read a topic was taken away; return after how many seconds to try again."""
        before = self.unreadable.get(topic)
        pause_s = 1.0 if before is None else min(2 * before, _LONGEST_PAUSE_S)
        self.unreadable[topic] = pause_s
        if pause_s != before:
            problem = TopicProblem.lacking(topic, "read", self.kafka.sasl_username)
            log.error("request_topic_unreadable", reason=str(problem), next_try_s=pause_s)
        return pause_s


class MemberThread(CommittingThread):
    """The consumer's thread, which says why its group does not take it, and leaves the group in time."""

    membership: Membership
    _supervisor: Supervisor

    async def on_start(self) -> None:
        await super().on_start()
        self._supervisor = Supervisor(self._ensure_consumer(), self.membership)
        self._supervisor.attach()
        self.add_future(self._supervisor.watch())

    async def on_thread_stop(self) -> None:
        """Leave the group and close the consumer, as far as the brokers answer."""
        if self._consumer is not None and self._consumer._coordinator is not None:
            await self._supervisor.leave_while_joining()
        closing = asyncio.create_task(self._close_consumer())
        await asyncio.wait({closing}, timeout=_LEAVE_S)
        if closing.done():
            closing.result()
        else:
            log.warning("group_not_left", group=self.membership.kafka.group_id, waited_s=_LEAVE_S)

    async def _close_consumer(self) -> None:
        try:
            await super().on_thread_stop()
        except asyncio.CancelledError:
            # aiokafka's fetcher may raise what it has cancelled itself; the connections are open still.
            if self._consumer is not None:
                await self._consumer._client.close()
