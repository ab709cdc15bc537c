"""Makes sure that the server has a model: pulls it where that is allowed, once for all who ask."""

from __future__ import annotations

import asyncio
import time

from engines.base import ProgressListener, PullProgress
from engines.log_context import shared_task
from engines.ollama.client import OllamaClient
from engines.ollama.failures import ModelMissing
from engines.ollama.wire import PullChunk, Shown
from handlers.errors import InferenceError
from handlers.logger import get_logger

log = get_logger(__name__)

PROGRESS_INTERVAL_S = 1.0
LOG_INTERVAL_S = 10.0


class ServerModels:
    """The models on the server; for one event loop, whose tasks may ask for one model at once."""

    def __init__(self, client: OllamaClient, *, auto_pull: bool, tell: ProgressListener) -> None:
        self._client = client
        self._auto_pull = auto_pull
        self._tell = tell
        self._asked: dict[str, asyncio.Task[Shown]] = {}

    async def ensure(self, model: str) -> Shown:
        """Return the server's description of `model`, after pulling it where needed. Cancelling it stops no pull.

        Raises:
            ModelLoadFailed: permanent; the server does not have it, and may not or cannot pull it.
            EngineUnavailable: retryable; the server is away, or the pull was cut short.
        """
        task = self._asked.get(model)
        if task is None:
            task = self._asked[model] = shared_task(self._ensure(model), name=f"pull {model}")
            task.add_done_callback(lambda done: self._forget(model, done))
        return await asyncio.shield(task)

    def _forget(self, model: str, task: asyncio.Task[Shown]) -> None:
        del self._asked[model]
        if not task.cancelled():
            task.exception()  # the callers may all be gone

    async def _ensure(self, model: str) -> Shown:
        try:
            return await self._client.show(model)
        except ModelMissing as missing:
            if not self._auto_pull:
                raise await self._with_names(missing) from None
        await self._pull(model)
        return await self._client.show(model)

    async def _pull(self, model: str) -> None:
        watch, started = _PullWatch(model, self._tell), time.monotonic()
        log.info("model_pull_started", model=model, server=self._client.failures.server)
        try:
            await self._client.pull(model, watch.hear)
        except InferenceError as error:
            log.warning("model_pull_failed", model=model, error=error.message)
            watch.report("failed")
            raise
        seconds = round(time.monotonic() - started, 1)
        log.info("model_pulled", model=model, seconds=seconds, bytes=watch.progress()[1])

    async def _with_names(self, missing: ModelMissing) -> ModelMissing:
        try:
            names = await self._client.tags()
        except InferenceError as error:
            log.debug("tags_failed", error=error.message)
            return missing
        return ModelMissing(f"{missing.message}; it has {', '.join(sorted(names)[:20]) or 'none'}")


class _PullWatch:
    """Adds up the layers of one pull, and reports each new status, and progress from time to time."""

    def __init__(self, model: str, tell: ProgressListener) -> None:
        self._model = model
        self._tell = tell
        self._layers: dict[str, tuple[int, int]] = {}
        self._status = ""
        self._told = self._logged = time.monotonic()

    def hear(self, chunk: PullChunk) -> None:
        now = time.monotonic()
        if chunk.digest:
            self._layers[chunk.digest] = (chunk.completed, chunk.total)
        is_new = chunk.status != self._status
        self._status = chunk.status
        if is_new or now - self._told >= PROGRESS_INTERVAL_S:
            self._told = now
            self.report(chunk.status)
        if now - self._logged >= LOG_INTERVAL_S:
            self._logged = now
            completed, total = self.progress()
            log.info("model_pulling", model=self._model, status=chunk.status, completed=completed, total=total)

    def progress(self) -> tuple[int, int]:
        """Return the bytes that are there, and those of all layers so far."""
        completed, total = zip((0, 0), *self._layers.values(), strict=True)
        return sum(completed), sum(total)

    def report(self, status: str) -> None:
        self._tell(PullProgress(self._model, status, *self.progress()))
