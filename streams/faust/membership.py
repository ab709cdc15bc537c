"""The state of a worker's membership in its consumer group."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal

from handlers.logger import get_logger
from streams.kafka.group_refusals import GroupRefused
from streams.kafka.topics import TopicProblem
from streams.settings import KafkaSettings

log = get_logger(__name__)

State = Literal["connecting", "searching", "joining", "refused", "joined"]

_LONGEST_PAUSE_S = 15.0


class Membership:
    """The state of this worker's membership. Written by the consumer's thread; any thread may read it."""

    def __init__(self, kafka: KafkaSettings, topics: Iterable[str], on_fatal: Callable[[GroupRefused], None]) -> None:
        """`on_fatal` is called in the consumer's thread where this worker cannot be a member any more."""
        self.kafka = kafka
        self.topics = frozenset(topics)
        self.on_fatal = on_fatal
        self.state: State = "connecting"
        self.reason = ""
        """Why it is not joined, as a sentence; empty where nothing is wrong."""
        self.is_answering = False
        """Whether a rebalance waits for requests in work of this worker."""
        self.missing_topics: frozenset[str] = frozenset()
        """The topics that the brokers do not have."""
        self.hidden_topics: frozenset[str] = frozenset()
        """The topics that the brokers do not show to it, as it lacks a right."""
        self.unreadable: dict[str, float] = {}
        """The topics that it may not read any more, with the pause before it tries again; set on the event loop."""

    def unreadable_topics(self) -> dict[str, str]:
        """Return the topics that it has no right to read, with the missing right as a sentence."""
        user = self.kafka.sasl_username
        problems = {topic: TopicProblem.lacking(topic, "read", user) for topic in list(self.unreadable)}
        problems |= {topic: TopicProblem.not_allowed(topic, user) for topic in self.hidden_topics}
        return {topic: str(problem) for topic, problem in sorted(problems.items())}

    def may_read(self, topic: str) -> None:
        """Note that a topic could be read."""
        if self.unreadable.pop(topic, None) is not None:
            log.info("request_topic_readable", topic=topic)

    def may_not_read(self, topic: str) -> float:
        """Log that the right to read a topic was taken away; return the seconds until the next try."""
        before = self.unreadable.get(topic)
        pause_s = 1.0 if before is None else min(2 * before, _LONGEST_PAUSE_S)
        self.unreadable[topic] = pause_s
        if pause_s != before:
            problem = TopicProblem.lacking(topic, "read", self.kafka.sasl_username)
            log.error("request_topic_unreadable", reason=str(problem), next_try_s=pause_s)
        return pause_s
