"""What the supervisor of a group tells of its topics, and asks of brokers."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest
from aiokafka import errors
from structlog.testing import capture_logs

from streams.faust import group_supervisor
from streams.faust.group_supervisor import Supervisor
from streams.faust.membership import Membership, State
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
        coordinator=None,
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


@pytest.mark.parametrize(
    ("state", "rebalances", "level"),
    [("joining", 0.5, "info"), ("joining", 2, "warning"), ("searching", 0.5, "warning")],
)
async def test_a_wait_for_the_group_is_a_warning_once_it_is_longer_than_a_rebalance_or_has_no_coordinator(
    monkeypatch: pytest.MonkeyPatch, state: State, rebalances: float, level: str
) -> None:
    settings = KafkaSettings()
    coordinator_id = None if state == "searching" else 1
    coordination: Any = SimpleNamespace(
        client=None,
        coordinator=SimpleNamespace(coordinator_id=coordinator_id, member_id=""),
        take_over=lambda **_: (None, None),
    )
    membership = Membership(settings, [], on_fatal=lambda error: None)
    membership.state, membership.is_answering = state, True
    supervisor = Supervisor(coordination, membership)
    now = supervisor._since + rebalances * settings.rebalance_timeout_s
    monkeypatch.setattr(group_supervisor, "time", SimpleNamespace(monotonic=lambda: now))
    with capture_logs() as lines:
        await supervisor._look_at_group()
    assert [(one["event"], one["log_level"]) for one in lines] == [("group_keeps_waiting", level)]


@pytest.mark.parametrize("is_stopping", [False, True])
async def test_a_coordination_that_ends_is_fatal_unless_the_consumer_is_being_stopped(
    monkeypatch: pytest.MonkeyPatch, is_stopping: bool
) -> None:
    """A worker whose group took long to leave ended as failed when it was looked at in between."""
    monkeypatch.setattr(group_supervisor, "_LOOK_EVERY_S", 0.01)
    fatal: list[BaseException] = []
    closing = asyncio.get_running_loop().create_future()
    coordination: Any = SimpleNamespace(
        client=None,
        coordinator=None,
        closing=closing,
        has_broken_off=True,
        take_over=lambda **_: (None, None),
    )
    supervisor = Supervisor(coordination, Membership(KafkaSettings(), ["requests"], on_fatal=fatal.append))
    if is_stopping:
        closing.set_result(None)
    async with asyncio.timeout(60):
        await supervisor.watch()
    assert [str(error) for error in fatal] == (
        [] if is_stopping else ["the coordination of the consumer group broke off; its error is logged above"]
    )


@pytest.mark.logs_errors("group_refused")
async def test_a_worker_that_is_refused_for_days_is_tried_again_for_as_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The pause was a power of two of the refusals, which no number holds after four hours."""
    pauses: list[float] = []

    async def wait(_: Any, timeout: float) -> None:
        pauses.append(timeout)

    async def restart() -> None: ...

    monkeypatch.setattr(group_supervisor, "asyncio", SimpleNamespace(wait=wait))
    coordination: Any = SimpleNamespace(
        client=None, coordinator=None, closing=None, restart=restart, take_over=lambda **_: (None, None)
    )
    supervisor = Supervisor(coordination, Membership(KafkaSettings(), ["requests"], on_fatal=lambda error: None))
    for _ in range(3000):
        await supervisor._refused(errors.GroupAuthorizationFailedError())
    assert pauses[:6] == [1, 2, 4, 8, 15, 15]
    assert pauses[-1] == 15
