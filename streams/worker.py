"""The worker: builds every part once, runs them until told to stop, and drains before it goes."""

from __future__ import annotations

import asyncio
import importlib
import os
import signal
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import structlog

from engines.inference import InferenceManager
from engines.prepared import Prepared
from handlers import model_registry
from streams.acks import OrderedAcker
from streams.batching import Batcher
from streams.cloudevents import Headers
from streams.faust_app import InferenceApp, build_app
from streams.intake import Intake
from streams.media import MediaFetcher
from streams.memory import ByteBudget
from streams.messages import MetricsEvent
from streams.pipeline import Pipeline, Pools
from streams.publishing import Publisher
from streams.settings import Settings
from streams.topic_admin import TopicsNotReady, check_topics
from streams.topics import Topics

log = structlog.get_logger(__name__)

_REGISTRY_THREADS = 8
_EXIT_FAILED = 1
_EXIT_INTERRUPTED_TWICE = 130


@dataclass(slots=True)
class Worker:
    """A started worker: its parts, and the future that ends its run."""

    settings: Settings
    tasks: list[str]
    app: InferenceApp
    intake: Intake
    publisher: Publisher
    manager: InferenceManager
    stopping: asyncio.Future[BaseException | None]

    def fail(self, error: BaseException) -> None:
        """End the run because of `error`, unless it is ending already."""
        if not self.stopping.done():
            self.stopping.set_result(error)


def run(settings: Settings) -> int:
    """Run a worker until SIGTERM or SIGINT and return the process's exit code.

    0: drained, everything taken was answered and committed. 1: something failed; unacked messages stay on the
    broker and are delivered again. A second signal ends the process at once.

    Raises:
        TopicsNotReady: topics are missing or have the wrong shape.
        BrokerUnavailable: no broker answers.
    """
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_run(settings))


async def _run(settings: Settings) -> int:
    async with _worker(settings) as worker:
        _stop_on_signals(worker)
        failure = await _until_stopped(worker)
        _exit_unless_done_within(settings.worker.drain_timeout_s)
        if failure is not None:
            log.critical("worker_failed", error=str(failure), exc_info=failure)
            # Draining would commit what comes after the message that could not be answered.
            _exit_now(_EXIT_FAILED)
        log.info("worker_draining", in_flight=worker.intake.in_flight)
        await worker.app.stop()
    log.info("worker_stopped")
    return 0


@asynccontextmanager
async def _worker(settings: Settings) -> AsyncIterator[Worker]:
    """Build the parts, start consuming, and take everything down in reverse on the way out."""
    for plugin in settings.worker.plugins:
        importlib.import_module(plugin)
    tasks = list(settings.worker.tasks) or model_registry.tasks()
    problems = await check_topics(settings.kafka, tasks)
    if problems:
        raise TopicsNotReady(problems)
    async with AsyncExitStack() as stack:
        manager = InferenceManager.from_settings(settings)
        stack.callback(manager.clear_cache)
        fetcher = MediaFetcher(settings.media, settings.s3)
        stack.callback(fetcher.close)
        pools = Pools(
            registry=stack.enter_context(ThreadPoolExecutor(_REGISTRY_THREADS, "registry")),
            decode=stack.enter_context(ThreadPoolExecutor(settings.media.decode_threads, "decode")),
        )
        engine_threads = stack.enter_context(ThreadPoolExecutor(settings.cache.max_models + 2, "engine"))
        batcher: Batcher[Prepared] = Batcher(
            manager.execute,
            executor=engine_threads,
            max_items=settings.worker.batch_max_items,
            max_wait_s=settings.worker.batch_wait_ms / 1000,
        )
        stack.push_async_callback(batcher.close)
        stopping: asyncio.Future[BaseException | None] = asyncio.get_running_loop().create_future()
        app = build_app(settings, tasks, lambda event, task: intake.take(event, task))
        publisher = _publisher(settings, app)
        intake = Intake(
            pipeline=Pipeline(
                manager=manager,
                fetcher=fetcher,
                batcher=batcher,
                pools=pools,
                memory=ByteBudget(settings.worker.max_in_flight_bytes),
                worker=settings.worker.name,
            ),
            publisher=publisher,
            acker=OrderedAcker(),
            max_in_flight=settings.worker.max_in_flight,
            worker=settings.worker.name,
            on_fatal=lambda error: worker.fail(error),
        )
        stack.push_async_callback(intake.close)
        worker = Worker(settings, tasks, app, intake, publisher, manager, stopping)
        app.on_before_shutdown.connect(lambda *_, **__: _announce(worker, "worker_stopped"), weak=False)
        await app.start()
        await _announce(worker, "worker_started")
        log.info("worker_started", tasks=tasks, group=settings.kafka.group_id, name=settings.worker.name)
        yield worker


def _publisher(settings: Settings, app: InferenceApp) -> Publisher:
    async def send(topic: str, key: bytes | None, value: bytes | None, headers: Headers) -> Awaitable[Any]:
        # The producer itself, not Topic.send: that one sends each record in a request of its own.
        return await app.producer.send(topic, key, value, None, None, headers)

    return Publisher(
        send,
        topics=Topics(settings.kafka.topic_prefix),
        worker=settings.worker.name,
        group=settings.kafka.group_id,
        max_message_bytes=settings.kafka.max_message_bytes,
        reply_topics=settings.worker.reply_topics,
    )


async def _announce(worker: Worker, kind: str) -> None:
    event = MetricsEvent(
        kind=kind,  # type: ignore[arg-type]
        time=time.time(),
        worker=worker.settings.worker.name,
        details={"tasks": worker.tasks, "group": worker.settings.kafka.group_id},
    )
    await worker.publisher.event(event)


async def _until_stopped(worker: Worker) -> BaseException | None:
    """Wait for a signal, a fatal failure or a crash of the app; return the failure, None for a signal."""
    crashed = asyncio.create_task(worker.app.wait_until_stopped(), name="faust app")
    crashed.add_done_callback(lambda _: worker.fail(_crash(worker.app)))
    failure = await worker.stopping
    crashed.cancel()
    return failure


def _crash(app: InferenceApp) -> BaseException:
    return app.crash_reason or RuntimeError("the Faust app stopped by itself")


def _stop_on_signals(worker: Worker) -> None:
    def on_signal(number: signal.Signals) -> None:
        if worker.stopping.done():
            log.warning(
                "worker_killed_by_second_signal", signal=number.name, in_flight=worker.intake.in_flight
            )
            _exit_now(_EXIT_INTERRUPTED_TWICE)
        log.info("worker_stopping", signal=number.name)
        worker.stopping.set_result(None)

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)


def _exit_unless_done_within(seconds: float) -> None:
    """End the process after `seconds` even if draining hangs in a thread nobody can stop."""

    def give_up() -> None:
        log.critical("drain_timed_out", drain_timeout_s=seconds)
        _exit_now(_EXIT_FAILED)

    timer = threading.Timer(seconds, give_up)
    timer.daemon = True
    timer.start()


def _exit_now(code: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
