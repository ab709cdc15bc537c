"""The names of all topics, and what can be wrong with one, as messages with what to do."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from streams.client_errors import ClientError

if TYPE_CHECKING:
    from streams.settings import KafkaSettings

TOPIC_NAME = re.compile(r"[A-Za-z0-9._-]{1,249}")
"""What Kafka takes for one."""


@dataclass(frozen=True, slots=True)
class Topics:
    """Names of the topics under one prefix."""

    prefix: str = "inference"

    def requests(self, task: str) -> str:
        """Requests for `task`, consumed by the workers."""
        return f"{self.prefix}.requests.{task}"

    def results(self, task: str) -> str:
        """One result per request for `task`, under the request's key."""
        return f"{self.prefix}.results.{task}"

    def dead_letters(self, task: str) -> str:
        """Records of `requests(task)` that could not be read as a request with an id."""
        return f"{self.prefix}.dlq.{task}"

    @property
    def events(self) -> str:
        """Metrics events: one per request and outcome, model loads, worker starts and stops."""
        return f"{self.prefix}.events"

    def all_of(self, tasks: Iterable[str]) -> list[str]:
        """Every topic that workers of `tasks` read or write."""
        names = [self.events]
        for task in tasks:
            names += [self.requests(task), self.results(task), self.dead_letters(task)]
        return names


@dataclass(frozen=True, slots=True)
class TopicProblem:
    """One problem of a topic, and the command or setting that solves it."""

    topic: str
    problem: str
    cure: str

    @classmethod
    def missing(cls, topic: str) -> TopicProblem:
        """Return the problem of a topic that does not exist."""
        return cls(topic, "does not exist", "run: inferstream topics create")

    @classmethod
    def not_allowed(cls, topic: str, user: str | None) -> TopicProblem:
        """Return the problem of a topic that this user may not see; brokers do not say whether it exists."""
        return cls(
            topic,
            f"is not for {f'user {user}' if user else 'a client without a login'}: the right to describe it is missing",
            "grant Describe and what it needs of Read and Write on it (kafka-acls.sh --add), or log in as another user "
            "(kafka.sasl_username)",
        )

    @classmethod
    def lacking(cls, topic: str, verb: Literal["read", "write"], user: str | None) -> TopicProblem:
        """Return the problem of a topic that this user may see, but not read or write as a worker must."""
        who, principal = (f"user {user}", f"User:{user}") if user else ("this client", "its principal")
        done = "read" if verb == "read" else "written to"
        return cls(
            topic,
            f"may not be {done} by {who}",
            f"grant {principal} the right {verb.capitalize()} on it (kafka-acls.sh --add)",
        )

    def __str__(self) -> str:
        return f"topic {self.topic} {self.problem}; {self.cure}"


class TopicsRefused(Exception):
    """Raised where the broker refuses to make or change topics; one line for each with reason and advice."""


class TopicsNotReady(ClientError):
    """Raised when a worker or a client must not start because topics are missing or have the wrong shape."""

    def __init__(self, problems: list[TopicProblem]) -> None:
        self.problems = problems
        super().__init__("\n".join(str(problem) for problem in problems))


_INVALID_TOPIC, _TOPIC_RIGHT, _CLUSTER_RIGHT = 17, 29, 31
_INVALID_REPLICATION_FACTOR, _NOT_CONTROLLER, _TIMED_OUT = 38, 41, 7


def refusal_of(kafka: KafkaSettings, topic: str, code: int | None, message: str, brokers: int) -> str:
    """Return why the broker refuses to make or change `topic`, and what to do; `brokers` is how many there are.

    `code` is one of Kafka's protocol, None for an error of the client.
    """
    user = f"user {kafka.sasl_username}" if kafka.sasl_username else "a client without a login"
    if code == _INVALID_TOPIC and "collide" in message:
        return (
            f"topic {topic} cannot be made: {message}; to Kafka, names that differ in '.' and '_' alone are the same: "
            "choose another kafka.topic_prefix or task name, or delete the other topic"
        )
    if code == _INVALID_TOPIC:
        reason = message or "its name is not allowed"
        return f"topic {topic} cannot be made: {reason}; choose another kafka.topic_prefix"
    if code in (_TOPIC_RIGHT, _CLUSTER_RIGHT):
        return (
            f"{user} may not make or change topics like {topic}; grant Create and Alter on topics with the prefix "
            f"{kafka.topic_prefix} (kafka-acls.sh --add --resource-pattern-type prefixed), or have an administrator "
            "run inferstream topics create"
        )
    if code == _INVALID_REPLICATION_FACTOR:
        there = f"there are {brokers} brokers" if brokers != 1 else "there is one broker"
        return (
            f"kafka.replication_factor={kafka.replication_factor} asks for more copies than brokers, and {there}; "
            f"set it to {max(1, brokers)} or less, or start more brokers"
        )
    if code in (_NOT_CONTROLLER, _TIMED_OUT):
        return (
            f"topic {topic} cannot be made or changed now: the cluster has no controller, as when most of its nodes "
            "are down; start them, then try again"
        )
    return f"the broker refuses to make or change topic {topic}: {message or f'error {code}'}; look at its own log"
