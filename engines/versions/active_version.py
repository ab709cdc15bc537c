"""What one model name stands for: the version that answers, the one that is to follow it, and how far that is."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

from engines.models.resolved_model import ResolvedModel, Use

RETRY_S, LONGEST_RETRY_S = 5.0, 300.0
"""Seconds until a version that did not load is tried again; they double with each failure."""


class State(Enum):
    """Where a name is on its way to the version that the registry named last."""

    SETTLED = auto()
    """That version is active."""
    OUTDATED = auto()
    """Another one is, and nothing is done about it yet."""
    LOADING = auto()
    """A thread loads it beside the active one."""
    FAILED = auto()
    """It did not load, and is tried again at `retry_at`."""


@dataclass(slots=True, eq=False)
class ActiveVersion:
    """The state of one name. Not thread-safe: `Versions` guards it by its lock.

    A transition is one method: `observe`, then `begin` and `activate` or `fail`; `activate` alone where nothing has
    to be loaded.
    """

    name: str
    current: ResolvedModel
    """The version that answers."""
    wanted: ResolvedModel
    """What the registry said last."""
    change: int
    """The number of the change that made `wanted` what it is."""
    is_warm: bool = False
    """Whether its model stays in memory without requests."""
    state: State = State.SETTLED
    retry_in_s: float = 0.0
    retry_at: float = 0.0
    failed_uses: frozenset[Use] = frozenset()
    """What the version that did not load was to be loaded for."""

    def observe(self, answer: ResolvedModel, *, asked_after: int, number: int) -> None:
        """Take an answer of the registry, which makes change `number` where it is another version.

        `asked_after` is the number of the last change when the question was put: an answer that a newer one
        has overtaken does not turn the name back.
        """
        if answer.id != self.wanted.id:
            if asked_after < self.change:
                return
            self.change = number
            self._forget_failure()
            if self.state is not State.LOADING:
                self.state = State.OUTDATED
        self.wanted = answer
        if answer.id == self.current.id:
            self.current = answer  # tags that only describe it may have changed
            if self.state is not State.LOADING:
                self.state = State.SETTLED

    def is_due(self, now: float) -> bool:
        """Return whether the wanted version may take over: it did not fail to load a moment ago."""
        return self.state is not State.FAILED or now >= self.retry_at

    def begin(self, now: float) -> bool:
        """Begin to load the wanted version; return whether that is to be done now."""
        if self.wanted.id == self.current.id:
            self.state = State.SETTLED
        elif self.is_due(now):
            self.state = State.LOADING
        return self.state is State.LOADING

    def activate(self) -> None:
        """Let the wanted version answer from now on."""
        self.current, self.state = self.wanted, State.SETTLED
        self._forget_failure()

    def fail(self, uses: frozenset[Use], now: float) -> None:
        """Note that the wanted version did not load for `uses`."""
        self.retry_in_s = min(2 * self.retry_in_s, LONGEST_RETRY_S) or RETRY_S
        self.retry_at, self.failed_uses, self.state = now + self.retry_in_s, uses, State.FAILED

    def _forget_failure(self) -> None:
        self.retry_in_s, self.failed_uses = 0.0, frozenset()
