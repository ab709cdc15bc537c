"""What one model name stands for: the version in service, the one that is to follow it, and why it does not yet."""

from __future__ import annotations

from dataclasses import dataclass

from engines.models.resolved_model import ResolvedModel, Use, VersionId

RETRY_S, LONGEST_RETRY_S = 5.0, 300.0
"""Seconds until a version that did not load is tried again; they double with each failure."""


@dataclass(frozen=True, slots=True)
class Failure:
    """The wanted version did not load."""

    uses: frozenset[Use]
    """What it was to be loaded for."""
    retry_in_s: float
    retry_at: float


@dataclass(slots=True, eq=False)
class Service:
    """The state of one name. Not thread-safe: its keeper guards it by a lock."""

    name: str
    current: ResolvedModel
    """The version in service."""
    wanted: ResolvedModel
    """What the registry said last."""
    changed: int
    """The number of the change that made `wanted` what it is."""
    is_warm: bool = False
    """Whether its model stays in memory without requests."""
    is_moving: bool = False
    """Whether a thread is bringing in what is wanted."""
    loading: VersionId | None = None
    """The version that is being loaded for it."""
    failure: Failure | None = None

    @property
    def is_settled(self) -> bool:
        """Whether the version in service is the one that is wanted."""
        return self.wanted.id == self.current.id

    def hear(self, answer: ResolvedModel, *, asked_after: int, number: int) -> None:
        """Take an answer of the registry, which makes change `number` where it is another version.

        `asked_after` is the number of the last change when the question was put: an answer that a newer one
        has overtaken does not turn the name back.
        """
        if answer.id != self.wanted.id:
            if asked_after < self.changed:
                return
            self.failure, self.changed = None, number
        self.wanted = answer
        if self.is_settled:
            self.current = answer  # tags that only describe it may have changed

    def may_try(self, now: float) -> bool:
        """Return whether the wanted version may be loaded: it did not fail to load a moment ago."""
        return self.failure is None or now >= self.failure.retry_at

    def fail(self, uses: frozenset[Use], now: float) -> Failure:
        """Note that the wanted version did not load for `uses`, and return when it is tried again."""
        retry_in_s = min(2 * self.failure.retry_in_s, LONGEST_RETRY_S) if self.failure else RETRY_S
        self.failure = Failure(uses, retry_in_s, now + retry_in_s)
        return self.failure

    def move(self) -> None:
        """Put the wanted version into service."""
        self.current, self.failure = self.wanted, None
