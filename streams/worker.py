"""The worker: builds every part once, runs them until told to stop, and drains before it goes."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import structlog

from engines.outcomes import Outcomes
from streams.acks import OrderedAcker
from streams.announcements import Announcements
from streams.faust_app import InferenceApp, build_app
from streams.http.gateway import Gateway, start_gateway
from streams.intake import Intake
from streams.logs import tell_left_out
from streams.outbox import Outbox
from streams.plugins import tasks_of
from streams.publishing import Publisher
from streams.quick_path import QuickPath
from streams.runtime import open_runtime
from streams.settings import Settings
from streams.shutdown import EXIT_FAILED, Stopping, exit_now, exit_unless_done_within, stop_on_signals
from streams.topic_admin import TopicsNotReady, check_topics
from streams.topics import Topics

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Worker:
    """A started worker: what ends with it, and the future that ends its run."""

    app: InferenceApp
    intake: Intake
    stopping: Stopping
    gateway: Gateway | None

    def fail(self, error: BaseException) -> None:
        """End the run because of `error`, unless it is ending already."""
        if not self.stopping.done():
            self.stopping.set_result(error)


def run(settings: Settings) -> int:
    """Run a worker until SIGTERM or SIGINT and return the process's exit code.

    0: drained, everything taken was answered and committed. 1: something failed; unacked messages stay on the
    broker and are delivered again. A second signal ends the process at once.

    Raises:
        ConfigurationError: permanent; a task, a plugin or an engine's setting is not usable.
        TopicsNotReady: topics are missing or have the wrong shape.
        BrokerUnavailable: no broker answers.
    """
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_run(settings))


async def _run(settings: Settings) -> int:
    async with _worker(settings) as worker:
        failure = await _until_stopped(worker)
        exit_unless_done_within(settings.worker.drain_timeout_s)
        if failure is not None:
            log.critical("worker_failed", error=str(failure), exc_info=failure)
            tell_left_out()
            # Draining would commit what comes after the message that could not be answered.
            exit_now(EXIT_FAILED)
        log.info("worker_draining", in_flight=worker.intake.in_flight)
        async with asyncio.TaskGroup() as draining:
            draining.create_task(worker.app.stop())
            if worker.gateway is not None:
                draining.create_task(worker.gateway.drain(settings.worker.drain_timeout_s))
    log.info("worker_stopped")
    return 0


@asynccontextmanager
async def _worker(settings: Settings) -> AsyncIterator[Worker]:
    """Build the parts, start consuming, and take everything down in reverse on the way out."""
    tasks = tasks_of(settings.worker)
    async with AsyncExitStack() as stack:
        stopping = stop_on_signals()
        announcements = Announcements(settings.worker.name)
        runtime = await stack.enter_async_context(
            open_runtime(settings, on_model=announcements.model, on_pull=announcements.pull)
        )
        problems = await check_topics(settings.kafka, tasks)
        if problems:
            raise TopicsNotReady(problems)
        gateway = None
        if settings.http.listens:
            gateway = await stack.enter_async_context(start_gateway(runtime, settings, is_ready=False))
        await runtime.warm(settings.worker.warm)
        acker = OrderedAcker(window=settings.worker.max_in_flight)
        app = build_app(settings, tasks, lambda fetched, task: intake.take(fetched, task), acker)
        publisher = _publisher(settings, app, runtime.manager.outcomes)
        intake = Intake(
            pipeline=runtime.pipeline,
            quick_path=QuickPath(runtime.pipeline, runtime.manager, runtime.batcher),
            publisher=publisher,
            acker=acker,
            is_current=lambda generation: app.batch_consumer.is_current(generation),
            outcomes=runtime.manager.outcomes,
            worker=settings.worker.name,
            on_fatal=lambda error: worker.fail(error),
        )
        stack.push_async_callback(intake.close)
        worker = Worker(app, intake, stopping, gateway)
        about = {
            "tasks": tasks,
            "group": settings.kafka.group_id,
            "http": gateway.url if gateway else None,
            "pid": os.getpid(),
        }

        async def say_goodbye(*_: Any, **__: Any) -> None:
            announcements.worker("worker_stopped", about)
            await announcements.flush()

        app.on_before_shutdown.connect(say_goodbye, weak=False)
        _tune_interpreter()
        await app.start()
        if gateway is not None:
            gateway.is_ready = True
        announcements.publish_to(publisher)
        stack.push_async_callback(announcements.close)
        announcements.worker("worker_started", about)
        log.info("worker_started", name=settings.worker.name, **about)
        yield worker


def _tune_interpreter() -> None:
    """Let the interpreter spend less on itself, now that what stays has been made."""
    # Requests make no cycles, so looking for some after every 700 objects finds nothing and costs a tenth.
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
    # Threads hand over many times a batch; each has to wait for this long where the loop is busy.
    sys.setswitchinterval(0.0005)


def _publisher(settings: Settings, app: InferenceApp, outcomes: Outcomes) -> Publisher:
    return Publisher(
        Outbox(app.kafka_producer),
        topics=Topics(settings.kafka.topic_prefix),
        outcomes=outcomes,
        worker=settings.worker.name,
        group=settings.kafka.group_id,
        max_message_bytes=settings.kafka.max_message_bytes,
        reply_topics=settings.worker.reply_topics,
    )


async def _until_stopped(worker: Worker) -> BaseException | None:
    """Wait for a signal, a fatal failure or a crash of the app; return the failure, None for a signal."""
    crashed = asyncio.create_task(worker.app.wait_until_stopped(), name="faust app")
    crashed.add_done_callback(lambda _: worker.fail(_crash(worker.app)))
    failure = await worker.stopping
    crashed.cancel()
    return failure


def _crash(app: InferenceApp) -> BaseException:
    return app.crash_reason or RuntimeError("the Faust app stopped by itself")
