"""Counts and latencies of everything a process inferred."""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from engines.results import STAGES

MOST_NAMES = 1000
"""Names counted one by one; callers choose names, so the rest is counted together."""

OTHER = "(other)"


@dataclass(slots=True)
class _Count:
    total: int = 0
    succeeded: int = 0

    def as_dict(self) -> dict[str, int]:
        return {"total": self.total, "succeeded": self.succeeded, "failed": self.total - self.succeeded}


@dataclass(slots=True)
class _Counts:
    by_name: dict[str, _Count] = field(default_factory=dict)

    def of(self, name: str) -> _Count:
        if name not in self.by_name and len(self.by_name) >= MOST_NAMES:
            name = OTHER
        return self.by_name.setdefault(name, _Count())

    def as_dict(self) -> dict[str, dict[str, int]]:
        return {name: count.as_dict() for name, count in sorted(self.by_name.items())}


class Statistics:
    """Exact counts since the start, and latencies of the latest requests; thread-safe, bounded memory."""

    def __init__(self, *, window: int = 4096) -> None:
        self._lock = threading.Lock()
        self._all = _Count()
        self._tasks, self._models, self._engines = _Counts(), _Counts(), _Counts()
        self._counts: dict[tuple[str, str, str], tuple[_Count, ...]] = {}
        """All that a request of these names counts in; not for more names than are counted one by one."""
        self._latencies: deque[float] = deque(maxlen=window)
        self._stage_s: dict[str, float] = dict.fromkeys(STAGES, 0.0)

    def record(
        self,
        task: str,
        model: str,
        engine: str,
        success: bool,
        processing_s: float,
        timings: Mapping[str, float] | None = None,
    ) -> None:
        """Count one finished request; times are in seconds."""
        names = (task, model, engine)
        with self._lock:
            counts = self._counts.get(names)
            if counts is None:
                counts = (self._all, self._tasks.of(task), self._models.of(model), self._engines.of(engine))
                if len(self._counts) < MOST_NAMES:
                    self._counts[names] = counts
            for count in counts:
                count.total += 1
                count.succeeded += success
            self._latencies.append(processing_s)
            if timings:
                stage_s = self._stage_s
                for stage, seconds in timings.items():
                    stage_s[stage] = stage_s.get(stage, 0.0) + seconds

    def snapshot(self) -> dict[str, Any]:
        """Return all counts and latencies of one moment: JSON-able, times in seconds, rates from 0 to 1.

        `latency_s` covers the last `latency_s.count` requests; `stage_mean_s` covers all since the start.
        """
        with self._lock:
            total, succeeded = self._all.total, self._all.succeeded
            latencies = list(self._latencies)
            answer: dict[str, Any] = {
                "total_inferences": total,
                "successful_inferences": succeeded,
                "failed_inferences": total - succeeded,
                "success_rate": succeeded / total if total else 0.0,
                "tasks": self._tasks.as_dict(),
                "models": self._models.as_dict(),
                "engines": self._engines.as_dict(),
                "stage_mean_s": {
                    stage: seconds / total if total else 0.0 for stage, seconds in self._stage_s.items()
                },
            }
        answer["latency_s"] = _latency(sorted(latencies))  # sorted here, so that nobody waits for it
        return answer


def _latency(ordered: Sequence[float]) -> dict[str, float]:
    count = len(ordered)
    return {
        "count": count,
        "mean": sum(ordered) / count if count else 0.0,
        **{f"p{percent}": _percentile(ordered, percent) for percent in (50, 95, 99)},
    }


def _percentile(ordered: Sequence[float], percent: int) -> float:
    """Return the nearest-rank percentile of ascending values; 0 where there are none."""
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)] if ordered else 0.0
