"""A broker that is away is told once and then seldom, and a moment of it is known from then on."""

from __future__ import annotations

import structlog

from streams.broker_watch import BrokerWatch


class Cluster:
    """Answers as it is told, at a time that it is told."""

    def __init__(self) -> None:
        self.answer = (3, 3)
        self.now = 100.0

    async def __call__(self) -> tuple[int, int]:
        return self.answer


async def test_brokers_that_answer_are_counted_without_a_line() -> None:
    cluster = Cluster()
    watch = BrokerWatch("a:1", cluster, clock=lambda: cluster.now)
    with structlog.testing.capture_logs() as lines:
        await watch.look()
        assert watch.report() == {"status": "ok", "known": 3, "answering": 3, "away_s": 0.0}
        cluster.answer = (3, 2)
        await watch.look()
        assert watch.report()["status"] == "degraded"
    assert lines == []


async def test_an_outage_is_one_line_then_one_after_growing_pauses_and_one_at_its_end() -> None:
    cluster = Cluster()
    watch = BrokerWatch("a:1", cluster, clock=lambda: cluster.now)
    cluster.answer = (3, 0)
    with structlog.testing.capture_logs() as lines:
        for _ in range(721):  # an hour
            await watch.look()
            cluster.now += 5
        assert watch.report()["status"] == "away"
        assert watch.away_s >= 3600
        cluster.answer = (3, 1)
        await watch.look()
    assert [line["event"] for line in lines] == ["broker_away"] * 8 + ["broker_back"]
    assert [line["away_s"] for line in lines[:-1]] == [0, 30, 60, 120, 240, 480, 960, 1920]
    assert (lines[0]["servers"], lines[0]["log_level"]) == ("a:1", "warning")
    assert lines[-1]["away_s"] >= 3600
    assert watch.away_s == 0
