"""What happens in one run: drawn from a seed, and made smaller where a run fails."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

Kind = Literal["join", "leave", "crash", "freeze"]


@dataclass(frozen=True)
class Event:
    """What becomes of a member, some time after the event before."""

    after_s: float
    turns: int
    """So many steps of the world later, each of which may be anywhere between the steps of the workers."""
    kind: Kind
    which: int
    """Counts the members that are there; another than that is taken where there are fewer."""
    for_s: float


@dataclass(frozen=True)
class Plan:
    """One run: whatever else happens in it by chance follows from `seed`."""

    seed: int
    members: int
    requests: int
    events: tuple[Event, ...]
    tasks: int
    partitions: int
    window: int
    most_fetched: int
    error_rate: float
    """How many requests to the broker fail, and as many answers get lost."""
    refusal_rate: float
    """How many sends are refused for good, which ends the worker."""
    poison_rate: float
    """How many inference requests end each worker that runs them."""
    crash_rate: float
    """How many requests to the broker are the last thing that a worker does, and how many answers the last it hears."""
    dying_s: float
    """How long a request that ends each worker takes for it, at most."""
    restart_s: float
    """After how long another worker joins in place of one that a request has ended; 0 where none does."""

    @classmethod
    def of(cls, seed: int) -> Plan:
        """Draw a run."""
        rng = random.Random(seed)
        kinds: tuple[Kind, ...] = ("join", "join", "leave", "crash", "freeze")
        events = tuple(
            Event(
                after_s=rng.choice((0.01, 0.5, 4.0, 12.0)) * rng.random(),
                turns=rng.randrange(30),
                kind=rng.choice(kinds),
                which=rng.randrange(4),
                for_s=15 * rng.random(),
            )
            for _ in range(rng.randrange(12))
        )
        return cls(
            seed=seed,
            members=rng.randint(1, 3),
            requests=rng.choice((3, 12, 40, 80)),
            events=events,
            tasks=rng.randint(1, 2),
            partitions=rng.randint(1, 4),
            window=rng.choice((1, 2, 3, 8, 64)),
            most_fetched=rng.choice((1, 3, 20)),
            error_rate=rng.choice((0.0, 0.0, 0.01, 0.1)),
            refusal_rate=rng.choice((0.0, 0.0, 0.0, 0.005)),
            poison_rate=rng.choice((0.0, 0.0, 0.0, 0.02, 0.1)),
            crash_rate=rng.choice((0.0, 0.0, 0.002)),
            dying_s=rng.choice((0.0, 0.0, 12.0)),
            restart_s=rng.choice((0.0, 8.0)),
        )

    def smaller(self) -> Iterator[Plan]:
        """Yield plans with less in them, those with the least first."""
        for number in range(len(self.events)):
            yield replace(self, events=self.events[:number] + self.events[number + 1 :])
        for fewer in (self.requests // 4, self.requests // 2, self.requests - 1):
            if 0 < fewer < self.requests:
                yield replace(self, requests=fewer)
        for name in ("members", "tasks", "partitions", "window", "most_fetched"):
            if getattr(self, name) > 1:
                yield self._with(name, getattr(self, name) - 1)
        for name in ("error_rate", "refusal_rate", "crash_rate", "poison_rate", "dying_s", "restart_s"):
            if getattr(self, name):
                yield self._with(name, 0.0)

    def _with(self, name: str, value: Any) -> Plan:
        return replace(self, **{name: value})
