"""What Prometheus reads: what the gateway answered, and what this process inferred on any way.

The `inferstream_http_*` families count responses of POST /inference/infer, refusals included. The others are read
from the manager's own statistics at each scrape, so nothing is counted twice, and Kafka's requests are in them.
"""

from __future__ import annotations

from collections import Counter as Counted
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from engines.inference import InferenceManager
from streams.messages import Result
from streams.stream_state import stream_metrics

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SUCCESS = "OK"
UNKNOWN = "(unknown)"
"""Stands for a task or engine that callers made up: they must not choose how many series there are."""

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
        """`pending` counts HTTP requests in work, `waiting` requests of any way that wait for a batch."""
        self._tasks = frozenset(tasks)
        self._manager = manager
        self._registry = CollectorRegistry()
        self._requests = Counter(
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
        for name, help_text, read in (
            ("inferstream_http_requests_in_flight", "Inference requests in work over HTTP.", pending),
            ("inferstream_batch_waiting", "Requests that wait for a batch, however they came.", waiting),
        ):
            Gauge(name, help_text, registry=self._registry).set_function(read)
        self._registry.register(_OfManager(manager, self._tasks))

    def answered(self, result: Result, seconds: float) -> None:
        """Count one response."""
        task = result.task if result.task in self._tasks else UNKNOWN
        engine = result.engine if self._manager.engines.knows(result.engine) else UNKNOWN
        code = SUCCESS if result.error is None else result.error.code
        self._requests.labels(task, engine, code).inc()
        self._seconds.labels(task, engine).observe(seconds)

    def text(self, stream: Mapping[str, Any] | None = None) -> bytes:
        """Return all metrics of this moment in Prometheus' text format, with those of a `StreamState.report`."""
        text = generate_latest(self._registry)
        if stream is None:
            return text
        of_stream = CollectorRegistry()
        of_stream.register(_OfStream(stream))
        return text + generate_latest(of_stream)


class _OfStream(Collector):
    """Shows what is known of a worker's stream at one moment."""

    def __init__(self, report: Mapping[str, Any]) -> None:
        self._report = report

    def collect(self) -> Iterator[Metric]:
        return stream_metrics(self._report)


class _OfManager(Collector):
    """Reads the manager's statistics and cache at each scrape."""

    def __init__(self, manager: InferenceManager, tasks: Collection[str]) -> None:
        self._manager = manager
        self._tasks = tasks

    def describe(self) -> Iterable[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        stats = self._manager.get_stats()
        yield self._inferences("task", stats["tasks"], self._tasks)
        yield self._inferences("engine", stats["engines"], self._manager.engines.names())
        looked_up = CounterMetricFamily(
            "inferstream_model_cache_lookups", "Models asked of the cache, by outcome.", labels=("outcome",)
        )
        looked_up.add_metric(("hit",), stats["cache_hits"])
        looked_up.add_metric(("miss",), stats["cache_misses"])
        yield looked_up
        for name, counts in self._manager.statistics.by_code().items():
            yield self._by_code(name, counts)
        yield GaugeMetricFamily(
            "inferstream_cached_models", "Models in memory.", value=stats["cached_models"]
        )
        yield GaugeMetricFamily(
            "inferstream_stuck_calls",
            "Calls of engines and handlers that gave nothing back in their time and have not come back since.",
            value=len(stats["stuck_calls"]),
        )
        yield CounterMetricFamily(
            "inferstream_given_up_calls",
            "Calls of engines and handlers that were given up, those that came back later included.",
            value=stats["given_up_calls"],
        )
        yield GaugeMetricFamily(
            "inferstream_cached_model_bytes", "Memory the models hold.", value=self._manager.cache.bytes
        )

    def _by_code(self, name: str, counts: Mapping[tuple[str, str], int]) -> CounterMetricFamily:
        family = CounterMetricFamily(f"inferstream_{name}", _BY_CODE[name], labels=("task", "code"))
        sums: Counted[tuple[str, str]] = Counted()
        for (task, code), count in counts.items():
            sums[task if task in self._tasks else UNKNOWN, code] += count
        for labels, value in sums.items():
            family.add_metric(labels, value)
        return family

    @staticmethod
    def _inferences(
        label: str, counts: Mapping[str, Mapping[str, int]], known: Collection[str]
    ) -> CounterMetricFamily:
        sums: Counted[tuple[str, str]] = Counted()
        for name, count in counts.items():
            for outcome in ("succeeded", "failed"):
                sums[name if name in known else UNKNOWN, outcome] += count[outcome]
        family = CounterMetricFamily(
            f"inferstream_inferences_by_{label}",
            f"Requests answered by this process on any way, by {label} and outcome.",
            labels=(label, "outcome"),
        )
        for labels, value in sums.items():
            family.add_metric(labels, value)
        return family
