"""Counts and latencies of all requests of a process."""

from __future__ import annotations

import math
import threading
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from engines.run.results import STAGES, Result

MOST_NAMES = 1000
"""How many names are counted one by one; callers choose names, so the rest is counted together."""

OTHER = "(other)"


@dataclass(slots=True)
class _Count:
    total: int = 0
    succeeded: int = 0

    def as_dict(self) -> dict[str, int]:
        return {"total": self.total, "succeeded": self.succeeded, "failed": self.total - self.succeeded}


def _counted_as(name: str, known: set[str]) -> str:
    """Return `name`, which is `known` from then on, or OTHER where too many are."""
    if name not in known and len(known) >= MOST_NAMES:
        return OTHER
    known.add(name)
    return name


class Statistics:
    """Exact counts since the start, and latencies of the latest requests; thread-safe, bounded memory."""

    def __init__(self, *, window: int = 4096) -> None:
        self._lock = threading.Lock()
        self._names: tuple[set[str], ...] = (set(), set(), set())
        """Of tasks, models and engines, as they are counted."""
        self._codes: set[str] = set()
        self._counts: tuple[dict[str, _Count], ...] = ({}, {}, {})
        """By task, by model, and by engine."""
        self._counts_of: dict[tuple[str, str, str], list[_Count]] = {}
        """The three counts of a request, by its names; as many as there is room for."""
        self._by_code: dict[str, Counter[tuple[str, str]]] = {
            "errors": Counter(),
            "refusals": Counter(),
            "dead_letters": Counter(),
        }
        """Each by task and error code."""
        self._latencies: deque[float] = deque(maxlen=window)
        self._stage_s: dict[str, float] = dict.fromkeys(STAGES, 0.0)

    def record(self, result: Result) -> None:
        """Count one finished request; its `timings` have every stage of `STAGES`."""
        names, error, timings = (result.task, result.model_name, result.engine), result.error, result.timings
        with self._lock:
            for count in self._counts_of.get(names) or self._find_counts(names):
                count.total += 1
                count.succeeded += error is None
            if error is not None:
                self._count_code("errors", result.task, error.code)
            self._latencies.append(result.processing_time)
            stage_s = self._stage_s
            for stage in STAGES:
                stage_s[stage] += timings[stage]

    def count(self, kind: str, task: str, code: str) -> None:
        """Count one request that was not let in (`refusals`), or one message kept as a dead letter (`dead_letters`)."""
        with self._lock:
            self._count_code(kind, task, code)

    def replace(self, result: Result, code: str) -> None:
        """Count one request as failed with `code` that was counted as answered."""
        with self._lock:
            for count in self._find_counts((result.task, result.model_name, result.engine)):
                count.succeeded -= 1
            self._count_code("errors", result.task, code)

    def by_code(self) -> dict[str, dict[tuple[str, str], int]]:
        """Return errors, refusals and dead_letters, each by task and error code."""
        with self._lock:
            return {kind: dict(counts) for kind, counts in self._by_code.items()}

    def snapshot(self) -> dict[str, Any]:
        """Return all current counts and latencies: JSON-able, times in seconds, rates from 0 to 1.

        `latency_s` covers the last `latency_s.count` requests; `stage_mean_s` covers all since the start. A request
        that failed before its engine was known counts under no engine. `errors` counts failed requests by code,
        `refusals` those that were not admitted, which are in no other number, and `dead_letters` dead letters.
        """
        with self._lock:
            tasks, models, engines = self._counts
            total = sum(count.total for count in tasks.values())
            succeeded = sum(count.succeeded for count in tasks.values())
            latencies = list(self._latencies)
            answer: dict[str, Any] = {
                "total_inferences": total,
                "successful_inferences": succeeded,
                "failed_inferences": total - succeeded,
                "success_rate": succeeded / total if total else 0.0,
                "tasks": _by_name(tasks),
                "models": _by_name(models),
                "engines": _by_name(engines),
                "stage_mean_s": {stage: seconds / total if total else 0.0 for stage, seconds in self._stage_s.items()},
                **{kind: _by_code(counts) for kind, counts in self._by_code.items()},
            }
        answer["latency_s"] = _latency(sorted(latencies))  # sorted outside of the lock
        return answer

    def _count_code(self, kind: str, task: str, code: str) -> None:
        self._by_code[kind][_counted_as(task, self._names[0]), _counted_as(code, self._codes)] += 1

    def _find_counts(self, names: tuple[str, str, str]) -> list[_Count]:
        found = [
            counts.setdefault(_counted_as(name, known), _Count())
            for name, known, counts in zip(names, self._names, self._counts, strict=True)
        ]
        if len(self._counts_of) < MOST_NAMES:
            self._counts_of[names] = found
        return found


def _by_name(sums: dict[str, _Count]) -> dict[str, dict[str, int]]:
    return {name: sums[name].as_dict() for name in sorted(sums) if name}


def _by_code(counts: Counter[tuple[str, str]]) -> dict[str, int]:
    sums: Counter[str] = Counter()
    for (_, code), count in counts.items():
        sums[code] += count
    return dict(sorted(sums.items()))


def _latency(ordered: Sequence[float]) -> dict[str, float]:
    count = len(ordered)
    return {
        "count": count,
        "mean": sum(ordered) / count if count else 0.0,
        # percentiles, by the nearest rank
        **{f"p{of}": ordered[math.ceil(count * of / 100) - 1] if count else 0.0 for of in (50, 95, 99)},
    }
