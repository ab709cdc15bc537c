"""The worker: builds every part once, runs them until it is told to stop, and drains."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from typing import Any

from aiokafka.errors import KafkaError

from handlers.logger import get_logger
from streams.delivery.port import PositionLost
from streams.delivery.publisher import Publisher
from streams.delivery.stream import Stream
from streams.faults import supervised, tell_of_faults
from streams.faust.app import build_app
from streams.faust.faust_internals import InferenceApp
from streams.faust.membership import Membership
from streams.faust.port import FaustSource, ProducerSink
from streams.http.gateway import Gateway, start_gateway
from streams.kafka.broker_watch import BrokerWatch, watching
from streams.kafka.connection import broker_answering, reached
from streams.kafka.group_refusals import GroupRefused
from streams.kafka.topic_admin import TopicsNotReady, check_rights, check_topics
from streams.kafka.topics import Topics
from streams.logs import tell_left_out
from streams.loop_watch import GRACE_S, watched_loop
from streams.pipeline.fast_lane import FastLane
from streams.pipeline.runtime import open_runtime
from streams.plugins import tasks_of
from streams.settings import Settings
from streams.shutdown import EXIT_FAILED, Stopping, exit_now, run_to_exit
from streams.stream_state import StreamState
from streams.worker.event_publisher import EventPublisher

log = get_logger(__name__)

_NOT_BY_A_REQUEST = (KafkaError, GroupRefused, PositionLost)
"""Errors that end a worker whatever its requests are."""


class Worker:
    """The parts of one worker, its start and its stop; lives on one event loop. Its exit stack closes the parts."""

    def __init__(self, settings: Settings, stopping: Stopping) -> None:
        self._settings = settings
        self._stopping = stopping
        self._tasks = tasks_of(settings.worker)
        self._event_publisher = EventPublisher(settings.worker.name)
        self._about: dict[str, Any] = {}
        loop = asyncio.get_running_loop()

        def on_fatal(error: BaseException) -> None:
            loop.call_soon_threadsafe(stopping.fail, error)

        topics = Topics(settings.kafka.topic_prefix)
        request_topics = [topics.requests(task) for task in self._tasks]
        self.membership = Membership(settings.kafka, request_topics, on_fatal)
        self.gateway: Gateway | None = None
        self._watch: BrokerWatch | None = None
        self.app: InferenceApp | None = None
        self._stream: Stream | None = None
        self._delivering: asyncio.Task[None] | None = None

    @property
    def in_flight(self) -> int:
        """How many records are taken and not yet acked."""
        return 0 if self._stream is None else self._stream.tracker.in_flight

    async def start(self, stack: AsyncExitStack) -> None:
        """Build the parts and start consuming; may be cancelled at any await.

        Raises:
            ConfigurationError: permanent; a plugin or an engine's setting is not usable, or the port is taken.
            TopicsNotReady: topics are missing, have the wrong shape, or may not be read or written.
            BrokerUnavailable: no broker answers.
        """
        settings = self._settings
        runtime = await stack.enter_async_context(
            open_runtime(
                settings,
                on_model=self._event_publisher.model,
                on_pull=self._event_publisher.pull,
                on_too_many_stuck=self._leave_to_another,
            )
        )
        problems = await check_topics(settings.kafka, self._tasks)
        # A right to the group may be granted while this worker waits for it; the topics are needed at once.
        if not problems:
            problems = (await check_rights(settings.kafka, self._tasks, of_group=False)).topics
        if problems:
            raise TopicsNotReady(problems)
        if settings.http.listens:
            self.gateway = await stack.enter_async_context(start_gateway(runtime, settings, is_ready=False))
        await runtime.warm(settings.worker.warm)
        self._watch = watch = await stack.enter_async_context(watching(settings.kafka))
        async with broker_answering(settings.kafka) as options:  # while Faust would wait for a frozen one
            kafka = settings.kafka.model_copy(update={"bootstrap_servers": options["bootstrap_servers"]})
        source = FaustSource(self.membership)
        self.app = app = build_app(kafka, self._tasks, source)
        self._stream = stream = Stream(
            source,
            ProducerSink(app.kafka_producer),
            kafka=kafka,
            worker=settings.worker,
            tasks=self._tasks,
            answering=FastLane(runtime.pipeline, runtime.batcher),
            outcomes=runtime.manager.outcomes,
            on_fatal=self._stopping.fail,
        )
        stack.push_async_callback(stream.request_consumer.close)
        stack.push_async_callback(self._event_publisher.close)
        if self.gateway is not None:
            self.gateway.stream = StreamState(
                watch=watch,
                membership=self.membership,
                tracker=stream.tracker,
                reader=source.reader,
                ready_without_broker_s=settings.worker.ready_without_broker_s,
            )
        _tune_interpreter()
        async with reached(settings.kafka):
            await app.start()
        crashed = asyncio.create_task(app.wait_until_stopped(), name="faust app")
        by_itself = RuntimeError("the Faust app stopped by itself")
        crashed.add_done_callback(lambda _: self._stopping.fail(app.crash_reason or by_itself))
        stack.callback(crashed.cancel)
        self._delivering = supervised(asyncio.create_task(stream.run(), name="deliver requests"))
        stack.callback(self._delivering.cancel)
        if self.gateway is not None:
            self.gateway.is_ready = True
        self._announce(stream.publisher)

    def _leave_to_another(self, error: Exception) -> None:
        """Stop: this process loads no model any more, another one can answer what waits for one."""
        self._stopping.request(error)
        if self._stream is not None:
            self._stream.request_consumer.leave()

    async def drain(self) -> None:
        """Take nothing new. Return once everything taken is answered and committed."""
        draining: list[Coroutine[Any, Any, object]] = []
        if self.app is not None and self._stream is not None:
            draining.append(self._drain_stream(self.app, self._stream))
        if self.gateway is not None:
            draining.append(self.gateway.drain(self._stopping.remaining_s))
        for ended in await asyncio.gather(*draining, return_exceptions=True):
            if isinstance(ended, BaseException):
                raise ended

    async def _drain_stream(self, app: InferenceApp, stream: Stream) -> None:
        """Return once everything is committed that can be; partitions that were reassigned or are gone do not count."""
        try:
            await app.drain()
            await stream.committer.commit_all()
        finally:
            if self._delivering is not None:
                self._delivering.cancel()  # before the consumer's thread ends, which it may need

    async def withdraw(self) -> None:
        """Remove the crash notes: this worker does not end because of a request."""
        if self._stream is not None:
            await self._stream.withdraw()

    async def leave(self) -> bool:
        """Leave the group and close the connections, after `drain`; return False where no broker answers."""
        if self._watch is not None and not await self._watch.any_answers():
            log.warning("group_not_left", group=self._settings.kafka.group_id, reason="no broker answers")
            return False
        if self._about:
            self._event_publisher.worker("worker_stopped", self._about)
            await self._stopping.courtesy(self._event_publisher.flush(), share=0.25)
        if self.app is not None:
            await self._stopping.courtesy(self.app.stop(), share=0.75)
        return True

    def _announce(self, publisher: Publisher) -> None:
        self._about = {
            "tasks": self._tasks,
            "group": self._settings.kafka.group_id,
            "http": self.gateway.url if self.gateway else None,
            "pid": os.getpid(),
        }
        self._event_publisher.publish_to(publisher)
        self._event_publisher.worker("worker_started", self._about)
        log.info("worker_started", name=self._settings.worker.name, **self._about)


def run(settings: Settings) -> int:
    """Run a worker until SIGTERM or SIGINT and return the process's exit code.

    0: drained; everything taken was answered and committed. 1: something failed; unacked records stay on the broker
    and are delivered again. Signals work from the start on. A second signal ends the process at once, and
    worker.drain_timeout_s after the first one ends it with 1.

    Raises:
        ConfigurationError: permanent; a task, a plugin or an engine's setting is not usable.
        TopicsNotReady: topics are missing or have the wrong shape.
        BrokerUnavailable: no broker answers.
    """
    return run_to_exit(_run(settings))


async def _run(settings: Settings) -> int:
    patience_s = settings.worker.infer_timeout_s + GRACE_S
    with Stopping(settings.worker.drain_timeout_s) as stopping, watched_loop(patience_s):
        tell_of_faults(stopping.fail)
        async with AsyncExitStack() as stack:
            worker = Worker(settings, stopping)
            try:
                await stopping.until_requested(worker.start(stack))
            except Exception as error:
                stopping.settle(EXIT_FAILED, error)
                raise
            failure = await stopping.requested()
            if failure is not None:
                failure = _logged(failure)
            if failure is not None and stopping.has_failed:
                tell_left_out()
                if isinstance(failure, _NOT_BY_A_REQUEST):
                    await stopping.courtesy(worker.withdraw(), share=0.5)
                # Draining would commit records behind the one that could not be answered.
                exit_now(EXIT_FAILED)
            log.info("worker_draining", in_flight=worker.in_flight)
            try:
                await stopping.until_failed(worker.drain())
            except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - the stop goes on, and exits with 1
                failure = _logged(error)
            status = 0 if failure is None else EXIT_FAILED
            stopping.settle(status)
            has_left = await worker.leave()
        log.info("worker_stopped")
        if not has_left:
            exit_now(status)  # Faust and aiokafka would wait for a broker
        stopping.closed(status)
    return status


def _logged(failure: BaseException) -> BaseException:
    """Log why the worker ends, and return it without the exception groups around it, which say less."""
    while isinstance(failure, BaseExceptionGroup) and len(failure.exceptions) == 1:
        failure = failure.exceptions[0]
    is_explained = isinstance(failure, GroupRefused)
    log.critical("worker_failed", error=str(failure) or repr(failure), exc_info=None if is_explained else failure)
    return failure


def _tune_interpreter() -> None:
    """Reduce the interpreter's overhead, now that all long-lived objects exist."""
    # Requests make no reference cycles, so a search after every 700 objects finds nothing and costs a tenth.
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
    # Threads take the interpreter's lock many times per batch, and wait this long for it where the loop is busy.
    sys.setswitchinterval(0.0005)
