"""What the supervisor of a group tells of its topics, and asks of brokers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from streams.faust import group_supervisor
from streams.faust.group_supervisor import Supervisor
from streams.faust.membership import Membership
from streams.settings import KafkaSettings


async def test_a_topic_that_is_missing_is_asked_for_until_it_is_there(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now, asked, partitions = 100.0, 0, set[int]()
    monkeypatch.setattr(group_supervisor, "time", SimpleNamespace(monotonic=lambda: now))

    def ask() -> None:
        nonlocal asked
        asked += 1

    cluster = SimpleNamespace(partitions_for_topic=lambda _: partitions, unauthorized_topics=set())
    coordination: Any = SimpleNamespace(
        client=SimpleNamespace(cluster=cluster, force_metadata_update=ask),
        has_asked_for=lambda _: True,
        take_over=lambda **_: (None, None),
    )
    membership = Membership(KafkaSettings(), ["requests"], on_fatal=lambda error: None)
    supervisor = Supervisor(cast(Any, coordination), membership)
    for _ in range(10):
        supervisor._look_at_topics()
        now += 1
    assert asked == 5
    assert membership.missing_topics == {"requests"}
    partitions.add(0)
    for _ in range(10):
        supervisor._look_at_topics()
        now += 1
    assert asked == 5
    assert membership.missing_topics == frozenset()
    told = capsys.readouterr().out
    assert told.count("request_topic_missing") == told.count("request_topic_back") == 1
