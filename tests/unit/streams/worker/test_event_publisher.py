"""Metrics events that belong to no request."""

from __future__ import annotations

import asyncio
import threading

from aiokafka.errors import KafkaConnectionError

from engines.models.resolved_model import ResolvedModel
from streams.delivery.publisher import Publisher
from streams.messages import MetricsEvent, decode_event, encode
from streams.worker.event_publisher import EventPublisher

MODEL = ResolvedModel("whisper", "3", "s3://bucket/whisper")
DETAILS = {"engine": "transformers", "task": "asr", "seconds": 1.5, "bytes": 10}


class Events(Publisher):
    """Keeps the events; refuses the first where told to."""

    def __init__(self, *, refuse_first: bool = False) -> None:
        self.events: list[MetricsEvent] = []
        self._refuse = refuse_first

    async def event(self, event: MetricsEvent) -> None:
        if self._refuse:
            self._refuse = False
            raise KafkaConnectionError("the broker is away")
        self.events.append(event)


async def test_models_loaded_in_other_threads_are_told_of_once_there_is_a_publisher() -> None:
    event_publisher, events = EventPublisher("worker-1"), Events()
    thread = threading.Thread(target=event_publisher.model, args=("model_loaded", MODEL, DETAILS))
    thread.start()
    await asyncio.to_thread(thread.join)
    event_publisher.worker("worker_started", {"tasks": ["asr"]})
    event_publisher.publish_to(events)
    await event_publisher.flush()
    loaded, started = events.events
    assert (loaded.kind, loaded.worker) == ("model_loaded", "worker-1")
    assert (loaded.task, loaded.engine) == ("asr", "transformers")
    assert (loaded.model_name, loaded.model_version) == ("whisper", "3")
    assert loaded.details == {"seconds": 1.5, "bytes": 10}
    assert (started.kind, started.details) == ("worker_started", {"tasks": ["asr"]})
    await event_publisher.close()


async def test_a_swap_is_told_with_what_was_before_and_a_failed_one_with_its_error() -> None:
    event_publisher, events = EventPublisher("worker-1"), Events()
    event_publisher.publish_to(events)
    about = {"engine": "transformers", "task": "asr", "name": "whisper@live"}
    event_publisher.model("model_swapped", MODEL, {**about, "previous_version": "2", "seconds": 1.5})
    failure = {"current_version": "2", "error_code": "MODEL_LOAD_FAILED", "error": "no", "retry_in_s": 5.0}
    event_publisher.model("model_swap_failed", MODEL, {**about, **failure})
    await asyncio.sleep(0)  # they come by way of the loop, as from any thread
    await event_publisher.flush()
    swapped, failed = (decode_event(encode(event)) for event in events.events)
    assert (swapped.kind, swapped.model_name, swapped.model_version) == ("model_swapped", "whisper", "3")
    assert swapped.details == {"name": "whisper@live", "previous_version": "2", "seconds": 1.5}
    assert (failed.kind, failed.task, failed.engine) == ("model_swap_failed", "asr", "transformers")
    assert failed.details == {"name": "whisper@live", **failure}
    await event_publisher.close()


async def test_an_event_that_the_broker_refuses_does_not_stop_the_next() -> None:
    event_publisher, events = EventPublisher("worker-1"), Events(refuse_first=True)
    event_publisher.publish_to(events)
    event_publisher.worker("worker_started", {})
    event_publisher.worker("worker_stopped", {})
    await event_publisher.flush()
    assert [event.kind for event in events.events] == ["worker_stopped"]
    await event_publisher.close()


async def test_nothing_waits_for_events_where_nothing_publishes() -> None:
    event_publisher = EventPublisher("worker-1")
    event_publisher.worker("worker_stopped", {})
    await event_publisher.flush()
    await event_publisher.close()
