"""Workers that die, stop and multiply: nothing is lost, and little is answered twice."""

from __future__ import annotations

import asyncio
import json
import os
import random
from collections.abc import Sequence
from contextlib import ExitStack

import pytest
from aiokafka.partitioner import DefaultPartitioner

from tests.integration.chaos.deliveries import (
    WINDOW,
    answered_ids,
    committed_total,
    producing,
    send_all,
    sleepy,
    until_all_is_committed,
)
from tests.integration.worker_process import Site, WorkerProcess

pytestmark = [pytest.mark.integration, pytest.mark.chaos]

# Each of these rounds starts three workers; test_rounds.py has cheaper ones.
ROUNDS = max(1, int(os.environ.get("CHAOS_ROUNDS", "0")) // 4)


async def test_a_killed_worker_loses_nothing_and_its_successor_repeats_at_most_what_was_in_flight(
    site: Site,
) -> None:
    quick = [f"r{number}" for number in range(40)]
    with WorkerProcess(site) as first:
        await first.started()
        # The oldest message of one partition never ends. What is behind it finishes, and must not be committed past.
        async with producing(site) as client:
            await client.send(sleepy("stuck", seconds=3600.0, model="sleepy-too"), key=b"one partition")
            for identity in quick[:3]:
                await client.send(sleepy(identity), key=b"one partition")
        await site.results("sleepy", quick[:3])
        await several_commits(site)
        first.kill()
    await no_unanswered_request_is_committed_past(site)
    await send_all(site, [sleepy(identity) for identity in quick[3:]])

    with WorkerProcess(site, settings={"SLEEPY_AWAKE": "1"}) as second:
        await second.started()
        answers = await site.results("sleepy", [*quick, "stuck"])
        await until_all_is_committed(site, len(quick) + 1)
        assert second.terminate() == 0
    assert all(result.success for result in answers.values())
    answered = await answered_ids(site)
    assert len(answered) - len(set(answered)) <= WINDOW * site.settings.kafka.partitions


async def test_sigterm_drains_what_is_in_flight_and_answers_nothing_twice(site: Site) -> None:
    ids = [f"r{number}" for number in range(30)]
    with WorkerProcess(site) as worker:
        await worker.started()
        await send_all(site, [sleepy(identity, seconds=0.15) for identity in ids])
        await site.read([site.topics.results("sleepy")], lambda records: len(records) >= 3)
        assert worker.terminate() == 0
    answered = await answered_ids(site)
    assert len(answered) == await committed_total(site) < len(ids)
    with WorkerProcess(site) as successor:
        await successor.started()
        await site.results("sleepy", ids)
        await until_all_is_committed(site, len(ids))
        assert successor.terminate() == 0
    assert sorted(await answered_ids(site)) == sorted(ids)


async def several_commits(site: Site) -> None:
    """Wait as long as three commits take: time enough to commit too much."""
    await asyncio.sleep(3 * site.settings.kafka.commit_interval_s)


async def no_unanswered_request_is_committed_past(site: Site) -> None:
    topic = site.topics.requests("sleepy")
    answered = set(await answered_ids(site))
    requests = await site.everything(topic)
    committed = await site.committed(topic)
    passed = [record for record in requests if record.offset < committed.get(record.partition, 0)]
    assert {json.loads(record.value)["id"] for record in passed} <= answered


async def test_a_stuck_message_delays_nobody_on_other_partitions_or_topics(site: Site) -> None:
    partitions = range(site.settings.kafka.partitions)
    behind = [f"behind{number}" for number in range(4 * WINDOW)]
    beside = [f"beside{number}" for number in range(4 * WINDOW)]
    elsewhere = [f"elsewhere{number}" for number in range(4 * WINDOW)]
    stuck_key, *other_keys = (
        next(key for key in map(b"%d".__mod__, range(1000)) if partition_of(key, partitions) == partition)
        for partition in partitions
    )
    with WorkerProcess(site) as worker:
        await worker.started()
        async with producing(site) as client:
            await client.send(sleepy("stuck", seconds=3600.0, model="sleepy-too"), key=stuck_key)
        await send_all(site, map(sleepy, behind), key=stuck_key)
        await site.results("sleepy", behind[: WINDOW - 1])
        for key in other_keys:
            await send_all(site, (sleepy(f"{identity} {key!r}") for identity in beside), key=key)
        await send_all(site, (sleepy(identity, task="plain") for identity in elsewhere))
        await site.results("sleepy", [f"{identity} {key!r}" for identity in beside for key in other_keys])
        await site.results("plain", elsewhere)
        assert not set(behind[WINDOW - 1 :]) & set(await answered_ids(site))
        worker.kill()


def partition_of(key: bytes, partitions: Sequence[int]) -> int:
    return int(DefaultPartitioner()(key, partitions, partitions))


@pytest.mark.timeout(600 + 120 * ROUNDS)
@pytest.mark.parametrize("task", ["sleepy", "plain"], ids=["with media", "quick path"])
async def test_workers_come_and_go_under_load_and_every_request_is_answered(site: Site, task: str) -> None:
    rng = random.Random(11)
    for round_number in range(ROUNDS):
        ids = [f"round{round_number}-{number}" for number in range(150)]
        with ExitStack() as running:
            first = running.enter_context(WorkerProcess(site))
            await first.started()
            await send_all(
                site,
                [
                    sleepy(
                        identity,
                        task=task,
                        seconds=rng.uniform(0.0, 0.1),
                        **({"fail": "meant to"} if number % 25 == 7 else {}),
                    )
                    for number, identity in enumerate(ids)
                ],
            )
            second = running.enter_context(WorkerProcess(site))
            await second.started()
            await site.read([site.topics.results(task)], lambda records: len(records) >= 30)
            first.kill()
            third = running.enter_context(WorkerProcess(site))
            await third.started()
            assert second.terminate() == 0
            answers = await site.results(task, ids, patience_s=120)
            await until_all_is_committed(site, len(ids) * (round_number + 1), task=task)
            assert third.terminate() == 0
        failed = {identity for identity in ids if not answers[identity].success}
        assert failed == {identity for number, identity in enumerate(ids) if number % 25 == 7}
        answered = await answered_ids(site, task)
        # One worker was killed a round.
        most = WINDOW * site.settings.kafka.partitions * (round_number + 1)
        assert len(answered) - len(set(answered)) <= most


async def test_a_worker_that_joins_makes_nobody_answer_anything_twice(site: Site) -> None:
    ids = [f"r{number}" for number in range(120)]
    with WorkerProcess(site) as first:
        await first.started()
        await send_all(site, [sleepy(identity, task="plain", seconds=0.05) for identity in ids])
        with WorkerProcess(site) as second:
            await second.started()
            await site.results("plain", ids)
            await until_all_is_committed(site, len(ids), task="plain")
            assert second.terminate() == 0
        assert first.terminate() == 0
    assert sorted(await answered_ids(site, "plain")) == sorted(ids)
