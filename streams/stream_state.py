"""What an operator sees of a worker's stream: the brokers, its place in the group, and what is on its way."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

if TYPE_CHECKING:  # `inferstream serve` shows metrics too, and has no use for Kafka
    from streams.delivery.offsets import OffsetTracker
    from streams.delivery.port import TopicPartition
    from streams.faust.membership import Membership
    from streams.faust.positions import PartitionReader
    from streams.kafka.broker_watch import BrokerWatch


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamState:
    """Puts together what the parts of a worker know. Lives on their event loop."""

    watch: BrokerWatch
    membership: Membership
    tracker: OffsetTracker
    reader: PartitionReader
    ready_without_broker_s: float | None
    """Without a broker for longer than that the status is error; None: never."""

    def report(self) -> dict[str, Any]:
        """Return {"status": ok | degraded | error, broker, group, offsets}, as JSON has it."""
        broker, group, tracker = self.watch.report(), self.membership, self.tracker
        unreadable = group.unreadable_topics()
        # Copies: the reader's thread may write meanwhile.
        stopped, removed = dict(self.reader.stopped_partitions), dict(self.reader.removed_unread)
        status, limit_s = "ok", self.ready_without_broker_s
        if limit_s is not None and broker["away_s"] > limit_s:
            status = "error"
        elif broker["status"] != "ok" or group.state != "joined" or group.missing_topics or unreadable or stopped:
            status = "degraded"
        return {
            "status": status,
            "broker": broker,
            "group": {
                "state": group.state,
                "reason": group.reason,
                "missing_topics": sorted(group.missing_topics),
                "unreadable_topics": unreadable,
            },
            "offsets": {
                "in_flight": tracker.in_flight,
                "unfinished": tracker.unfinished,
                "uncommitted": tracker.uncommitted,
                "oldest_age_s": round(tracker.oldest_age_s(), 3),
                "held_back": sorted(map(_named, tracker.held_back)),
                "stopped": {_named(place): why for place, why in stopped.items()},
                "removed_unread": {_named(place): count for place, count in removed.items()},
            },
        }


def stream_metrics(report: Mapping[str, Any]) -> Iterator[Metric]:
    """Yield what Prometheus reads of a `StreamState.report`."""
    broker, group, offsets = report["broker"], report["group"], report["offsets"]
    for name, help_text, value in (
        ("broker_up", "Whether any broker answers.", broker["status"] != "away"),
        ("brokers_known", "Brokers that the cluster names.", broker["known"]),
        ("brokers_answering", "Brokers that answer.", broker["answering"]),
        ("broker_away_seconds", "Time since no broker answers; 0 where one does.", broker["away_s"]),
        ("group_joined", "Whether this worker is a member of its group.", group["state"] == "joined"),
        ("topics_missing", "Request topics that are not there.", len(group["missing_topics"])),
        ("topics_unreadable", "Request topics that it has no right to read.", len(group["unreadable_topics"])),
        ("messages_in_flight", "Messages taken and not acked yet.", offsets["in_flight"]),
        ("messages_unfinished", "Messages taken and not answered yet.", offsets["unfinished"]),
        ("messages_uncommitted", "Messages that a crash now would repeat.", offsets["uncommitted"]),
        ("oldest_message_age_seconds", "Age of the oldest message in flight.", offsets["oldest_age_s"]),
        ("partitions_held_back", "Partitions whose next messages wait for room.", len(offsets["held_back"])),
        ("partitions_stopped", "Partitions that cannot be read on.", len(offsets["stopped"])),
    ):
        yield GaugeMetricFamily(f"inferstream_{name}", help_text, value=float(value))
    yield counter_family(
        "records_removed_unread",
        "Offsets that the broker had removed before they were read.",
        ("topic", "partition"),
        {tuple(place.rsplit("/", 1)): count for place, count in offsets["removed_unread"].items()},
    )


def counter_family(
    name: str, help_text: str, labels: tuple[str, ...], counts: Mapping[tuple[str, ...], int]
) -> CounterMetricFamily:
    """Return the counts by the values of `labels`, as Prometheus reads them."""
    family = CounterMetricFamily(f"inferstream_{name}", help_text, labels=labels)
    for values, count in counts.items():
        family.add_metric(values, count)
    return family


def _named(place: TopicPartition) -> str:
    return f"{place[0]}/{place[1]}"
