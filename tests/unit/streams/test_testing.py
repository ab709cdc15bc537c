"""A worker on a broker in memory answers as one on Kafka does."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from engines.config.settings import CacheSettings
from streams.messages import decode_event
from streams.settings import KafkaSettings, Settings, WorkerSettings
from streams.testing import worker_in_memory
from tests.unit.streams.unruly_site import AnyModels, registered

ROOT = Path(__file__).parents[3]
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


def blocks(page: str) -> list[str]:
    """Return the Python programs of a page of this repository."""
    return re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL)


@pytest.mark.processes
def test_the_example_of_the_docs_runs_on_the_plugin_of_the_readme(tmp_path: Path) -> None:
    [example] = blocks("docs/decisions/simulation.md")
    [plugin] = [block for block in blocks("README.md") if "register_engine(" in block]
    (tmp_path / "counting.py").write_text(plugin.partition("model_manager.register")[0])
    (tmp_path / "test_counting.py").write_text(example)
    paths = os.pathsep.join([str(tmp_path), str(ROOT)])
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_counting.py"],
        cwd=tmp_path,
        env={**os.environ, "HOME": str(tmp_path), "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert "1 passed" in done.stdout


@pytest.mark.logs_errors("execute_failed")
async def test_a_stop_at_which_the_broker_takes_no_commit_raises_that_and_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        raise OSError("no commit")

    settings = Settings(
        worker=WorkerSettings(name="w", tasks=("unruly",)),
        kafka=KafkaSettings(partitions=1, commit_interval_s=60),
        cache=CacheSettings(directory=tmp_path),
    )
    request = {"id": "r", "task": "unruly", "engine": "unruly", "model_name": "m", "data": {"inputs": "x"}}
    async with asyncio.timeout(PATIENCE_S), registered():
        with pytest.raises(OSError, match="no commit"):
            async with worker_in_memory(settings, models=AnyModels(tmp_path)) as worker:
                await worker.ask(request)
                monkeypatch.setattr(worker.broker, "commit", refuse)
    assert not worker.broker.group(settings.kafka.group_id).members
