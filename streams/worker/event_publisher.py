"""Publishes metrics events about the worker and its models."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any

from aiokafka.errors import KafkaError

from engines.base import PullProgress
from engines.models.resolved_model import ResolvedModel
from handlers.logger import get_logger
from streams.delivery.publisher import Publisher
from streams.faults import supervised
from streams.messages import EventKind, MetricsEvent

log = get_logger(__name__)


class EventPublisher:
    """Publishes metrics events that belong to no request.

    Lives on the event loop it is made in; `model` and `pull` may be called from any thread. Events before
    `publish_to` are kept and published then. An event that the broker refuses is logged and lost: the requests matter
    more.
    """

    def __init__(self, worker: str) -> None:
        self._worker = worker
        self._loop = asyncio.get_running_loop()
        self._news: asyncio.Queue[MetricsEvent] = asyncio.Queue()
        self._publishing: asyncio.Task[None] | None = None

    def publish_to(self, publisher: Publisher) -> None:
        """Start publishing; events that were kept go first."""
        self._publishing = supervised(asyncio.create_task(self._publish(publisher), name="event_publisher"))

    def worker(self, kind: EventKind, details: Mapping[str, Any]) -> None:
        """Publish that the worker starts or stops; call it on the event loop, so that `flush` waits for it."""
        self._news.put_nowait(self._event(kind, details=dict(details)))

    def model(self, kind: str, model: ResolvedModel, details: Mapping[str, Any]) -> None:
        """Publish that a model was loaded, evicted or swapped for a newer version; a `ModelListener`."""
        about = dict(details)
        self._tell(
            kind,
            task=about.pop("task"),
            engine=about.pop("engine"),
            model_name=model.name,
            model_version=model.version,
            details=about,
        )

    def pull(self, engine: str, progress: PullProgress) -> None:
        """Publish the progress of a download to an engine's server; a `PullListener`."""
        details = {
            "status": progress.status,
            "completed_bytes": progress.completed_bytes,
            "total_bytes": progress.total_bytes,
        }
        self._tell("model_pull", engine=engine, model_name=progress.model, details=details)

    async def flush(self) -> None:
        """Return once all events so far were published or refused."""
        if self._publishing is not None and not self._publishing.done():
            await self._news.join()

    async def close(self) -> None:
        """Stop publishing."""
        if self._publishing is not None:
            self._publishing.cancel()
            await asyncio.wait([self._publishing])

    async def _publish(self, publisher: Publisher) -> None:
        while True:
            event = await self._news.get()
            try:
                await publisher.event(event)
            except KafkaError as error:
                log.warning("event_not_published", kind=event.kind, error=repr(error))
            finally:
                self._news.task_done()

    def _tell(self, kind: str, **fields: Any) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._news.put_nowait, self._event(kind, **fields))

    def _event(self, kind: str, **fields: Any) -> MetricsEvent:
        return MetricsEvent(kind=kind, time=time.time(), worker=self._worker, **fields)  # type: ignore[arg-type]
