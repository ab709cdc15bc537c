"""The state of one model name: the active version, the wanted version, and the progress between them."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from enum import Enum, auto

from engines.models.resolved_model import ResolvedModel, Use

RETRY_S, LONGEST_RETRY_S = 5.0, 300.0
"""Seconds until a version that failed to load is tried again; they double with each failure."""


class State(Enum):
    """The progress of a name towards the wanted version."""

    SETTLED = auto()
    """The wanted version is active."""
    OUTDATED = auto()
    """Another version is active, and the wanted one is not loading yet."""
    LOADING = auto()
    """A thread loads the wanted version beside the active one."""
    FAILED = auto()
    """It failed to load, and is tried again at `retry_at`."""


@dataclass(slots=True, eq=False)
class ActiveVersion:
    """The state of one name; `Versions` guards it by its lock. A transition is one method: `observe`, then `begin` and
    `activate` or `fail`; `activate` alone where nothing has to be loaded."""

    name: str
    current: ResolvedModel
    """The active version, which answers."""
    wanted: ResolvedModel
    """The registry's last answer."""
    change: int
    """The number of the change that set `wanted`."""
    state: State = State.SETTLED
    loader: threading.Thread | None = None
    """The thread that loads the wanted version, or did so last: the one before it may not have ended yet."""
    retry_in_s: float = 0.0
    retry_at: float = 0.0
    failed_uses: frozenset[Use] = frozenset()
    """The uses for which the wanted version failed to load."""

    def observe(self, answer: ResolvedModel, *, asked_after: int, number: int) -> None:
        """Take an answer of the registry; another version makes change `number`. An answer asked for when `asked_after`
        was the last change does not undo a newer one."""
        if answer.id != self.wanted.id:
            if asked_after < self.change:
                return
            self.change = number
            self._forget_failure()
            if self.state is not State.LOADING:
                self.state = State.OUTDATED
        self.wanted = answer
        if answer.id == self.current.id:
            self.current = answer  # tags that only describe the version may have changed
            if self.state is not State.LOADING:
                self.state = State.SETTLED

    def is_due(self, now: float) -> bool:
        """Return whether the wanted version may be loaded: it has not failed a moment ago."""
        return self.state is not State.FAILED or now >= self.retry_at

    def begin(self, now: float) -> bool:
        """Begin to load the wanted version; return whether it must be loaded now."""
        if self.wanted.id == self.current.id:
            self.state = State.SETTLED
        elif self.is_due(now):
            self.state = State.LOADING
        return self.state is State.LOADING

    def activate(self) -> None:
        """Make the wanted version the active one."""
        self.current, self.state = self.wanted, State.SETTLED
        self._forget_failure()

    def fail(self, uses: frozenset[Use], now: float) -> None:
        """Note that the wanted version failed to load for `uses`."""
        self.retry_in_s = min(2 * self.retry_in_s, LONGEST_RETRY_S) or RETRY_S
        self.retry_at, self.failed_uses, self.state = now + self.retry_in_s, uses, State.FAILED

    def _forget_failure(self) -> None:
        self.retry_in_s, self.failed_uses = 0.0, frozenset()
