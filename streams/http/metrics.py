"""The metrics for Prometheus: responses of the gateway, and all inferences of this process.

The `inferstream_http_*` families count responses of POST /inference/infer, refusals included. The others are read
from the manager's own statistics at each scrape, so nothing is counted twice, and requests from Kafka are included.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client import Counter as CounterMetric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from engines.inference import InferenceManager
from streams.messages import Result
from streams.stream_state import counter_family, stream_metrics

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SUCCESS = "OK"
UNKNOWN = "(unknown)"
"""Stands for an unknown task or engine of a request: callers must not decide how many series there are."""

_BY_CODE = {
    "errors": "Requests that failed on any way, by error code.",
    "refusals": "Requests that were not let in on any way, by error code.",
    "dead_letters": "Messages kept as dead letters, by error code.",
}

_BUCKETS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class Metrics:
    """The metrics of one gateway, in its own registry; thread-safe."""

    def __init__(
        self,
        manager: InferenceManager,
        *,
        tasks: Collection[str],
        pending: Callable[[], int],
        waiting: Callable[[], int],
    ) -> None:
        """`pending` counts HTTP requests in work, `waiting` requests of all origins that wait for a batch."""
        self._tasks = frozenset(tasks)
        self._manager = manager
        self._registry = CollectorRegistry()
        self._requests = CounterMetric(
            "inferstream_http_requests",
            "Inference requests answered over HTTP, by error code, OK for success.",
            ("task", "engine", "code"),
            registry=self._registry,
        )
        self._seconds = Histogram(
            "inferstream_http_request_seconds",
            "Time from the arrival of an inference request to its response.",
            ("task", "engine"),
            buckets=_BUCKETS_S,
            registry=self._registry,
        )
        self._pending = pending
        self._waiting = waiting
        self._registry.register(_Families(self._read))

    def answered(self, result: Result, seconds: float) -> None:
        """Count one response."""
        task = result.task if result.task in self._tasks else UNKNOWN
        engine = result.engine if self._manager.engines.knows(result.engine) else UNKNOWN
        code = SUCCESS if result.error is None else result.error.code
        self._requests.labels(task, engine, code).inc()
        self._seconds.labels(task, engine).observe(seconds)

    def text(self, stream: Mapping[str, Any] | None = None) -> bytes:
        """Return all current metrics in Prometheus' text format, with those of a `StreamState.report`."""
        text = generate_latest(self._registry)
        return text if stream is None else text + generate_latest(_Families(lambda: stream_metrics(stream)))

    def _read(self) -> Iterator[Metric]:
        """Read the manager's statistics and cache, and what is in work."""
        stats = self._manager.get_stats()
        yield _inferences("task", stats["tasks"], self._tasks)
        yield _inferences("engine", stats["engines"], self._manager.engines.names())
        yield counter_family(
            "model_cache_lookups",
            "Models asked of the cache, by outcome.",
            ("outcome",),
            {("hit",): stats["cache_hits"], ("miss",): stats["cache_misses"]},
        )
        for name, counts in self._manager.statistics.by_code().items():
            sums: Counter[tuple[str, ...]] = Counter()
            for (task, code), count in counts.items():
                sums[task if task in self._tasks else UNKNOWN, code] += count
            yield counter_family(name, _BY_CODE[name], ("task", "code"), sums)
        yield counter_family(
            "given_up_calls",
            "Calls of engines and handlers that were given up, those that came back later included.",
            (),
            {(): stats["given_up_calls"]},
        )
        for name, help_text, value in (
            ("http_requests_in_flight", "Inference requests in work over HTTP.", self._pending()),
            ("batch_waiting", "Requests that wait for a batch, however they came.", self._waiting()),
            ("cached_models", "Models in memory.", stats["cached_models"]),
            ("cached_model_bytes", "Memory the models hold.", self._manager.cache.bytes),
            (
                "stuck_calls",
                "Calls of engines and handlers that hang: given up, and not returned since.",
                len(stats["stuck_calls"]),
            ),
        ):
            yield GaugeMetricFamily(f"inferstream_{name}", help_text, value=value)


def _inferences(label: str, counts: Mapping[str, Mapping[str, int]], known: Collection[str]) -> CounterMetricFamily:
    sums: Counter[tuple[str, ...]] = Counter()
    for name, count in counts.items():
        for outcome in ("succeeded", "failed"):
            sums[name if name in known else UNKNOWN, outcome] += count[outcome]
    help_text = f"Requests answered by this process on any way, by {label} and outcome."
    return counter_family(f"inferences_by_{label}", help_text, (label, "outcome"), sums)


@dataclass(frozen=True)
class _Families:
    """A collector: `collect` returns the families of a scrape."""

    collect: Callable[[], Iterable[Metric]]
