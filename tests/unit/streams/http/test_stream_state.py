"""What /readyz and /metrics tell of a worker's stream, and what makes it not ready."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.errors import NodeNotReadyError

from streams.delivery.offsets import OffsetTracker
from streams.faust.membership import Membership
from streams.kafka.broker_watch import BrokerWatch
from streams.settings import KafkaSettings, WorkerSettings
from streams.stream_state import StreamState
from tests.unit.streams.http.site import HttpSite, http_site
from tests.unit.streams.received_messages import Fetches, message, track


class Stream:
    """The parts that a worker's state is read from."""

    def __init__(self, ready_without_broker_s: float | None = 60.0) -> None:
        self.now = 0.0
        self.answering = 3
        self.cluster = SimpleNamespace(brokers=lambda: [SimpleNamespace(nodeId=node) for node in range(3)])
        self.watch = BrokerWatch("a:1", self.connect, clock=lambda: self.now)
        self.membership = Membership(KafkaSettings(), ["t"], lambda error: None)
        self.membership.state = "joined"
        self.tracker = OffsetTracker(clock=lambda: self.now)
        self.partitions: Any = SimpleNamespace(stopped_partitions={}, removed_unread={})
        doubled: dict[str, Any] = {"reader": self.partitions}
        self.state = StreamState(
            watch=self.watch,
            membership=self.membership,
            tracker=self.tracker,
            ready_without_broker_s=ready_without_broker_s,
            **doubled,
        )

    async def connect(self) -> Any:
        return self

    async def close(self) -> None: ...

    async def send(self, node: int, request: Any) -> None:
        if node >= self.answering:
            raise NodeNotReadyError

    async def lose_broker(self, seconds: float) -> None:
        self.answering = 0
        await self.watch.look()
        self.now += seconds
        await self.watch.look()


async def ready(site: HttpSite) -> tuple[int, dict[str, Any]]:
    response = await site.client.get("/readyz")
    return response.status_code, response.json()


async def test_the_figures_of_the_stream_are_in_readyz_and_metrics(tmp_path: Path) -> None:
    stream = Stream()
    messages = [message(number, b"x") for number in range(3)]
    track(stream.tracker, Fetches().of(messages))
    stream.tracker.done(messages[0])
    stream.tracker.held_back.add(("t", 3))
    stream.partitions.removed_unread = {("t", 1): 7}
    stream.now = 5.0
    await stream.watch.look()
    async with http_site(tmp_path) as site:
        site.gateway.stream = stream.state
        status, body = await ready(site)
        text = (await site.client.get("/metrics")).text
    kafka = body["components"]["kafka"]
    assert (status, body["status"], kafka["status"]) == (200, "ok", "ok")
    assert kafka["broker"] == {"status": "ok", "known": 3, "answering": 3, "away_s": 0.0}
    assert kafka["group"] == {"state": "joined", "reason": "", "missing_topics": [], "unreadable_topics": {}}
    assert kafka["offsets"] == {
        "in_flight": 2,
        "unfinished": 2,
        "uncommitted": 3,
        "oldest_age_s": 5.0,
        "held_back": ["t/3"],
        "stopped": {},
        "removed_unread": {"t/1": 7},
    }
    for line in (
        "inferstream_broker_up 1.0",
        "inferstream_brokers_answering 3.0",
        "inferstream_messages_in_flight 2.0",
        "inferstream_messages_uncommitted 3.0",
        "inferstream_oldest_message_age_seconds 5.0",
        "inferstream_partitions_held_back 1.0",
        "inferstream_partitions_stopped 0.0",
        'inferstream_records_removed_unread_total{partition="1",topic="t"} 7.0',
        "inferstream_group_joined 1.0",
    ):
        assert f"\n{line}\n" in text


@pytest.mark.parametrize(("grace_s", "code", "status"), [(60.0, 503, "error"), (None, 200, "degraded")])
async def test_no_broker_means_not_ready_after_a_grace_where_the_settings_say_so(
    tmp_path: Path, grace_s: float | None, code: int, status: str
) -> None:
    stream = Stream(grace_s)
    async with http_site(tmp_path) as site:
        site.gateway.stream = stream.state
        await stream.lose_broker(30)
        assert (await ready(site))[0] == 200
        await stream.lose_broker(40)
        found, body = await ready(site)
        assert (found, body["status"]) == (code, status)
        assert body["components"]["kafka"]["broker"]["away_s"] == 70
        assert "\ninferstream_broker_up 0.0\n" in (await site.client.get("/metrics")).text
        stream.answering = 1
        await stream.watch.look()
        assert (await ready(site))[1]["status"] == "degraded"  # one of three answers


@pytest.mark.logs_errors("request_topic_unreadable")
async def test_a_topic_without_the_right_to_read_it_is_told_apart_from_one_that_is_missing(
    tmp_path: Path,
) -> None:
    stream = Stream()
    stream.membership.missing_topics = frozenset({"gone"})
    stream.membership.hidden_topics = frozenset({"hidden"})
    stream.membership.may_not_read("t")
    await stream.watch.look()
    async with http_site(tmp_path) as site:
        site.gateway.stream = stream.state
        code, body = await ready(site)
        text = (await site.client.get("/metrics")).text
        stream.membership.missing_topics = stream.membership.hidden_topics = frozenset()
        assert (await ready(site))[1]["components"]["kafka"]["status"] == "degraded"
        stream.membership.may_read("t")
        assert (await ready(site))[1]["components"]["kafka"]["status"] == "ok"
    group = body["components"]["kafka"]["group"]
    assert (code, group["missing_topics"]) == (200, ["gone"])
    assert list(group["unreadable_topics"]) == ["hidden", "t"]
    assert "grant Describe" in group["unreadable_topics"]["hidden"]
    assert "the right Read" in group["unreadable_topics"]["t"]
    for line in ("inferstream_topics_missing 1.0", "inferstream_topics_unreadable 2.0"):
        assert f"\n{line}\n" in text


@pytest.mark.parametrize("fault", ["a stopped partition", "a missing topic", "no place in the group"])
async def test_a_stream_that_is_unwell_is_degraded_and_says_why(tmp_path: Path, fault: str) -> None:
    stream = Stream()
    await stream.watch.look()
    if fault == "a stopped partition":
        stream.partitions.stopped_partitions = {("t", 0): "offset 5 cannot be read"}
    elif fault == "a missing topic":
        stream.membership.missing_topics = frozenset({"t"})
    else:
        stream.membership.state, stream.membership.reason = "refused", "no right to read the group"
    async with http_site(tmp_path) as site:
        site.gateway.stream = stream.state
        code, body = await ready(site)
        site.gateway.is_ready = False
        starting = await ready(site)
    assert (code, body["status"]) == (200, "degraded")
    shown = str(body["components"]["kafka"])
    assert any(part in shown for part in ("offset 5 cannot be read", "['t']", "no right to read the group"))
    assert (starting[0], starting[1]["status"]) == (503, "starting")
    assert starting[1]["components"]["kafka"]["status"] == "degraded"


async def test_a_process_without_a_stream_says_nothing_of_kafka(tmp_path: Path) -> None:
    async with http_site(tmp_path) as site:
        code, body = await ready(site)
        text = (await site.client.get("/metrics")).text
    assert (code, "kafka" in body["components"]) == (200, False)
    assert "inferstream_broker_up" not in text


def test_the_grace_is_a_minute_unless_set() -> None:
    assert WorkerSettings().ready_without_broker_s == 60
