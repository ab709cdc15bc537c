"""Metrics events that belong to no request."""

from __future__ import annotations

import asyncio
import threading

from aiokafka.errors import KafkaConnectionError

from engines.models.resolved_model import ResolvedModel
from streams.delivery.publisher import Publisher
from streams.messages import MetricsEvent, decode_event, encode
from streams.worker.event_publisher import Announcements

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
    announcements, events = Announcements("worker-1"), Events()
    thread = threading.Thread(target=announcements.model, args=("model_loaded", MODEL, DETAILS))
    thread.start()
    await asyncio.to_thread(thread.join)
    announcements.worker("worker_started", {"tasks": ["asr"]})
    announcements.publish_to(events)
    await announcements.flush()
    loaded, started = events.events
    assert (loaded.kind, loaded.worker) == ("model_loaded", "worker-1")
    assert (loaded.task, loaded.engine) == ("asr", "transformers")
    assert (loaded.model_name, loaded.model_version) == ("whisper", "3")
    assert loaded.details == {"seconds": 1.5, "bytes": 10}
    assert (started.kind, started.details) == ("worker_started", {"tasks": ["asr"]})
    await announcements.close()


async def test_a_swap_is_told_with_what_was_before_and_a_failed_one_with_its_error() -> None:
    announcements, events = Announcements("worker-1"), Events()
    announcements.publish_to(events)
    about = {"engine": "transformers", "task": "asr", "name": "whisper@live"}
    announcements.model("model_swapped", MODEL, {**about, "previous_version": "2", "seconds": 1.5})
    failure = {"current_version": "2", "error_code": "MODEL_LOAD_FAILED", "error": "no", "retry_in_s": 5.0}
    announcements.model("model_swap_failed", MODEL, {**about, **failure})
    await asyncio.sleep(0)  # they come by way of the loop, as from any thread
    await announcements.flush()
    swapped, failed = (decode_event(encode(event)) for event in events.events)
    assert (swapped.kind, swapped.model_name, swapped.model_version) == ("model_swapped", "whisper", "3")
    assert swapped.details == {"name": "whisper@live", "previous_version": "2", "seconds": 1.5}
    assert (failed.kind, failed.task, failed.engine) == ("model_swap_failed", "asr", "transformers")
    assert failed.details == {"name": "whisper@live", **failure}
    await announcements.close()


async def test_an_event_that_the_broker_refuses_does_not_stop_the_next() -> None:
    announcements, events = Announcements("worker-1"), Events(refuse_first=True)
    announcements.publish_to(events)
    announcements.worker("worker_started", {})
    announcements.worker("worker_stopped", {})
    await announcements.flush()
    assert [event.kind for event in events.events] == ["worker_stopped"]
    await announcements.close()


async def test_nothing_waits_for_events_where_nothing_publishes() -> None:
    announcements = Announcements("worker-1")
    announcements.worker("worker_stopped", {})
    await announcements.flush()
    await announcements.close()
