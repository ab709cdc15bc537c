"""Builds everything between a request and its result from the settings, for Kafka and HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from engines.cache.heap import HeapTrimmer
from engines.cache.loader import ModelListener
from engines.guard import Guard
from engines.guarded_pool import GuardedPool
from engines.inference import InferenceManager
from engines.models.model_manager import ModelManager
from engines.registry import PullListener
from handlers.errors import InferenceError
from handlers.logger import get_logger
from streams.faults import contained
from streams.media import MediaFetcher
from streams.pipeline.batcher import Batcher
from streams.pipeline.byte_budget import ByteBudget
from streams.pipeline.dispatcher import Dispatcher, EngineExecutors
from streams.pipeline.pipeline import Pipeline, Pools
from streams.plugins import import_plugins
from streams.settings import Settings

log = get_logger(__name__)

_REGISTRY_THREADS = 8
_STAGE_THREADS = 16


@dataclass(frozen=True, slots=True)
class Runtime:
    """The parts that answer requests; all live on the event loop that opened them."""

    pipeline: Pipeline
    manager: InferenceManager
    batcher: Batcher

    async def warm(self, model_names: Iterable[str]) -> None:
        """Load these models, one after the other; one that fails to load is logged and skipped."""
        for model_name in model_names:
            try:
                await asyncio.to_thread(contained, self.manager.warm, model_name)
            except InferenceError as error:
                log.error("model_not_warmed", model=model_name, code=error.code, error=error.message)


@asynccontextmanager
async def open_runtime(
    settings: Settings,
    *,
    models: ModelManager | None = None,
    on_model: ModelListener | None = None,
    on_pull: PullListener | None = None,
    on_too_many_stuck: Callable[[Exception], None] | None = None,
) -> AsyncIterator[Runtime]:
    """Build the parts and yield them; at the end running batches finish and models are unloaded.

    Plugins are imported first, so that their tasks and engines are known. Nothing is connected to or loaded before
    the first request. `models` resolves model names; by default with the MLflow server of the settings. `on_model` is
    called with models loaded and evicted, `on_pull` with downloads to an engine's server, each in the thread that did
    it. `on_too_many_stuck` is called once, on the event loop, when more calls hang than worker.max_stuck_calls
    allows.

    Raises:
        ConfigurationError: permanent; a plugin cannot be imported, or a setting of a custom engine is wrong.
    """
    import_plugins(settings.worker.plugins)
    worker, loop = settings.worker, asyncio.get_running_loop()

    def too_many(error: Exception) -> None:
        if on_too_many_stuck is not None and not loop.is_closed():
            loop.call_soon_threadsafe(on_too_many_stuck, error)

    async with AsyncExitStack() as stack:
        guard = Guard(worker.patience, most_stuck=worker.max_stuck_calls, too_many=too_many)
        fetcher = MediaFetcher(settings.media, settings.s3)
        stack.callback(fetcher.close)
        manager = InferenceManager.from_settings(
            settings,
            models=models,
            fetch_media=fetcher.resolve,
            on_model=on_model,
            on_pull=on_pull,
            guard=guard,
        )
        stack.callback(manager.close)
        heap = HeapTrimmer(manager.cache)
        stack.callback(heap.looking.close)
        heap.looking.start()
        manager.engines.check_settings()
        pools = Pools(
            registry=stack.enter_context(GuardedPool(guard, _REGISTRY_THREADS, "registry")),
            stages=stack.enter_context(GuardedPool(guard, _STAGE_THREADS, "stages")),
            decode=stack.enter_context(GuardedPool(guard, settings.media.decode_threads, "decode")),
            children=stack.enter_context(GuardedPool(guard, settings.media.decode_processes, "children")),
        )
        threads = stack.enter_context(EngineExecutors(settings.cache.max_models, manager.execution.is_loaded, guard))
        batcher = Batcher(
            manager.execution.run,
            threads=threads.of,
            max_items=worker.batch_max_items,
            max_wait_s=worker.batch_wait_ms / 1000,
        )
        stack.push_async_callback(batcher.close)
        pipeline = Pipeline(
            manager=manager,
            fetcher=fetcher,
            dispatcher=Dispatcher(manager.execution, batcher, threads.of),
            pools=pools,
            memory=ByteBudget(worker.max_in_flight_bytes, settings.media.threads + settings.media.decode_threads),
            worker=worker.name,
        )
        with pipeline.slow_stages.interrupting(worker.infer_timeout_s):
            yield Runtime(pipeline, manager, batcher)
