"""What a benchmark is: a name, targets, and a run that measures two sides turn by turn."""

from __future__ import annotations

import statistics
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from examples.bench.context import Context

Comparison = Literal[">=", "<=", "=="]
Side = Callable[[], Awaitable[float]]
"""Runs one side of a comparison once and returns its figure: a rate, a time."""


@dataclass(frozen=True, slots=True)
class Target:
    """What one figure of a benchmark has to reach."""

    figure: str
    comparison: Comparison
    bound: float
    unit: str = ""
    """What the figure is counted in; empty for a ratio."""

    def is_met(self, value: float) -> bool:
        """Return whether `value`, unrounded, reaches the bound."""
        match self.comparison:
            case ">=":
                return value >= self.bound
            case "<=":
                return value <= self.bound
            case "==":
                return value == self.bound

    def __str__(self) -> str:
        return f"{self.comparison}{self.bound:g}"


@dataclass(frozen=True, slots=True)
class Spread:
    """One figure over the rounds of a run: its median, and the lowest and highest of the rounds."""

    median: float
    low: float
    high: float
    rounds: int = 1

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Return the spread of at least one value."""
        return cls(statistics.median(values), min(values), max(values), len(values))


@dataclass(frozen=True, slots=True)
class Chart:
    """What is drawn of a benchmark: one series of numbers a side."""

    title: str
    unit: str
    series: Mapping[str, Sequence[float]]
    kind: Literal["rounds", "distribution", "course"] = "rounds"
    """rounds: one number a round; distribution: many of one kind; course: in the order in which they came."""
    bound: float | None = None
    """Where a line is drawn across: the target."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """What came of a run: a spread for every figure that has a target, and what else is worth keeping."""

    figures: Mapping[str, Spread]
    charts: Sequence[Chart] = ()
    notes: Sequence[str] = ()
    """How it was measured, where that needs saying, and what stood out; one sentence each."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """More numbers, for the JSON file."""


@dataclass(frozen=True, slots=True)
class Benchmark:
    """One benchmark; `run` raises where what it measures does not work at all."""

    name: str
    what: str
    targets: Sequence[Target]
    run: Callable[[Context], Coroutine[Any, Any, Measurement]]


async def interleaved(
    sides: Mapping[str, Side],
    rounds: int,
    on_turn: Callable[[str, int], None] = lambda side, number: None,
) -> dict[str, list[float]]:
    """Run every side once a round, one after the other, and return each side's figures by round.

    The sides of one round share what the machine was doing then, so their ratio says more than either figure.
    Every second round goes in the opposite order: whoever always came second would profit from warm caches.
    """
    figures: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds):
        for name in list(sides) if number % 2 == 0 else reversed(list(sides)):
            on_turn(name, number)
            figures[name].append(await sides[name]())
    return figures


def ratios(figures: Mapping[str, Sequence[float]], side: str, *, over: str) -> Spread:
    """Return the spread of the rounds' ratios of `side` over the other one."""
    return Spread.of([ours / theirs for ours, theirs in zip(figures[side], figures[over], strict=True)])


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the value below which `percent` of `values` lie: the nearest one there is, none in between."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]
