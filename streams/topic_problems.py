"""What can be wrong with a topic, in words, and what mends it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TopicProblem:
    """One topic that is not as expected, and the command or setting that mends it."""

    topic: str
    problem: str
    cure: str

    @classmethod
    def missing(cls, topic: str) -> TopicProblem:
        """Return the problem of a topic that is not there."""
        return cls(topic, "does not exist", "run: inferstream topics create")

    @classmethod
    def not_allowed(cls, topic: str, user: str | None) -> TopicProblem:
        """Return the problem of a topic that its user may not see; whether it exists is not told to them."""
        return cls(
            topic,
            f"is not for {f'user {user}' if user else 'a client without a login'}: the right to describe it is missing",
            "grant Describe and what it needs of Read and Write on it (kafka-acls.sh --add), or log in as another user "
            "(kafka.sasl_username)",
        )

    def __str__(self) -> str:
        return f"topic {self.topic} {self.problem}; {self.cure}"


class TopicsNotReady(Exception):
    """Raised when a worker must not start because topics are missing or have the wrong shape."""

    def __init__(self, problems: list[TopicProblem]) -> None:
        self.problems = problems
        super().__init__("\n".join(str(problem) for problem in problems))
