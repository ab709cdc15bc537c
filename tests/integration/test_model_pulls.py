"""A model that the Ollama server lacks: one request has it pulled, and the events topic tells how that goes."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.local import LocalStack
from engines.models.model_manager import ModelManager
from streams.client import InferenceClient
from streams.messages import MetricsEvent, Request, decode_event
from tests.integration.worker_process import Record, Site, WorkerProcess
from tests.unit.engines.ollama.fake_models import FakeModel
from tests.unit.engines.ollama.fake_ollama import FakeOllama

TASK = "text-generation"
SIZE = 4_000
PULLED = [
    "pulling manifest",
    "pulling 0123456789ab",
    "verifying sha256 digest",
    "writing manifest",
    "success",
]


@pytest.fixture
def server() -> Iterator[FakeOllama]:
    """A server without models, and one in its library."""
    with FakeOllama(models={}, library={"smol": FakeModel(size=SIZE)}) as server:
        yield server


@pytest.fixture
def model(model_manager: ModelManager) -> str:
    """A registered model that the server could pull, and beside it one that nobody has."""
    name = f"smol-{uuid.uuid4().hex[:8]}"
    for ours, theirs in ((name, "smol"), (f"{name}-gone", "gone")):
        model_manager.register_model_to_mlflow(
            model_name=ours,
            model_source="ollama",
            tags={"task": TASK, "engine": "ollama", "ollama_model_name": theirs},
        )
    return name


def pulls(records: list[Record], model: str) -> list[MetricsEvent]:
    """Return the events of pulls of `model`, in the order in which they were sent."""
    events = [decode_event(record.value) for record in records if record.value]
    ours = [event for event in events if event.kind == "model_pull" and event.model_name == model]
    return sorted(ours, key=lambda event: event.time)


def statuses(records: list[Record], model: str) -> list[str]:
    return [event.details["status"] for event in pulls(records, model)]


async def test_a_missing_model_is_pulled_for_one_request_and_the_events_tell_its_progress(
    local_stack: LocalStack, server: FakeOllama, model: str, tmp_path: Path
) -> None:
    site = Site(tmp_path, local_stack.settings(), worker={"tasks": [TASK]}, ollama={"api_base": server.url})
    await site.create_topics([TASK])
    with WorkerProcess(site) as worker:
        await worker.started()
        async with InferenceClient(site.settings.kafka, tasks=[TASK]) as client:
            good, bad = (
                Request(task=TASK, engine="ollama", model_name=name, data={"inputs": "hi"})
                for name in (model, f"{model}-gone")
            )
            answered = await client.infer(good, timeout_s=90)
            refused = await client.infer(bad, timeout_s=90)
        records = await site.read(
            [site.topics.events],
            lambda found: len(statuses(found, "smol")) == len(PULLED) and "failed" in statuses(found, "gone"),
        )
        assert worker.terminate() == 0

    assert answered.success, answered.error
    assert answered.result is not None
    assert answered.result["generated_text"] == "You said: hi"
    assert refused.error is not None
    assert (refused.error.code, refused.error.retryable) == ("MODEL_LOAD_FAILED", False)
    assert server.pulls == {"smol": 1, "gone": 1}

    told = pulls(records, "smol")
    assert {(event.engine, event.worker) for event in told} == {("ollama", worker.name)}
    assert statuses(records, "smol") == PULLED
    completed = [event.details["completed_bytes"] for event in told]
    assert completed == sorted(completed)
    assert (completed[-1], told[-1].details["total_bytes"]) == (SIZE, SIZE)
