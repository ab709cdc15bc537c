"""A worker on a broker in memory answers as one on Kafka does."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from engines.config.settings import CacheSettings
from streams.messages import decode_event
from streams.settings import KafkaSettings, Settings, WorkerSettings
from streams.testing import worker_in_memory
from tests.unit.streams.unruly_site import AnyModels, registered

PATIENCE_S = 120.0


@pytest.mark.logs_errors("execute_failed")
async def test_requests_are_answered_by_the_engine_and_told_of_by_events(tmp_path: Path) -> None:
    settings = Settings(
        worker=WorkerSettings(name="w", tasks=("unruly",)),
        kafka=KafkaSettings(partitions=2),
        cache=CacheSettings(directory=tmp_path),
    )
    async with (
        asyncio.timeout(PATIENCE_S),
        registered(),
        worker_in_memory(settings, models=AnyModels(tmp_path)) as worker,
    ):
        results = await asyncio.gather(
            *(
                worker.ask(
                    {
                        "id": f"r{number}",
                        "task": "unruly",
                        "engine": "unruly",
                        "model_name": "m",
                        "data": {"inputs": "x"},
                    },
                    partition=number % 2,
                )
                for number in range(6)
            )
        )
        events = [decode_event(one.value or b"") for one in worker.broker.records(worker.topics.events)]
    assert [(result.id, result.worker) for result in results] == [(f"r{number}", "w") for number in range(6)]
    assert {event.id for event in events} >= {f"r{number}" for number in range(5)}
    assert worker.broker.group(settings.kafka.group_id).committed == {
        ("inference.requests.unruly", 0): 3,
        ("inference.requests.unruly", 1): 3,
    }
