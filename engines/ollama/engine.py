"""OllamaEngine: runs models on an Ollama server, over HTTP."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

from engines.base import NO_HURRY, BaseEngine, Emit, PullProgress, Urgency, begin_later
from engines.config.settings import OllamaSettings
from engines.log_context import failures_logged
from engines.ollama.answer import Answer
from engines.ollama.background import BackgroundLoop
from engines.ollama.client import OllamaClient
from engines.ollama.failures import ModelMissing
from engines.ollama.request import OllamaModel, build, short_name
from engines.ollama.server_models import ServerModels
from engines.ollama.wire import AnswerChunk, Shown
from engines.priority_queue import PrioritySemaphore
from handlers.errors import InferenceError, ModelLoadFailed
from handlers.logger import get_logger

log = get_logger(__name__)

NEEDED_CAPABILITY = {"text-generation": "completion", "vlm": "vision"}
"""The capability that a model needs for a task, in Ollama's words."""

SHIFT_TAG = "ollama_shift"

UNTOLD_CONTEXT = 131_072
"""The longest context that requests may ask for where neither setting nor server names one, in tokens."""

T = TypeVar("T")


class OllamaEngine(BaseEngine):
    """Runs requests on an Ollama server, at most `ollama.max_concurrent` at a time. Thread-safe; calls for one model
    overlap. All waiting happens in one thread, from the first call to `close`; listeners are called in it and must not
    block."""

    name = "ollama"
    supported_tasks = frozenset(NEEDED_CAPABILITY)
    continuous_tasks = supported_tasks
    needs_files = False

    def __init__(self, config: OllamaSettings | None = None) -> None:
        super().__init__(config or OllamaSettings())
        self.option_bounds = self.config.bounds
        self._client = OllamaClient(self.config)
        self._models = ServerModels(self._client, auto_pull=self.config.auto_pull, tell=self._tell)
        self._slots = PrioritySemaphore(self.config.max_concurrent)
        self._background = BackgroundLoop("ollama", clean_up=self._client.aclose)
        self._held: dict[str, set[OllamaModel]] = defaultdict(set)
        self._held_lock = threading.Lock()
        self._heard_at = 0.0
        self._under_way: set[Future[Any]] = set()

    def load_model(self, name: str, **kw: Any) -> OllamaModel:
        """Return the model that the tag `ollama_model_name` names, else `name`, once the server holds it.

        A missing model is pulled where `ollama.auto_pull` is on. The server loads its weights with the first request.
        The tag `ollama_shift` (true or false) overrides the setting ollama.shift.

        Raises:
            ModelLoadFailed: permanent; the server does not have it, it cannot do the task, or a tag is wrong.
            EngineUnavailable: retryable; the server is away, or a pull was cut short.
        """
        tags = kw.get("tags", {})
        theirs = short_name(tags.get("ollama_model_name") or name)
        shift = _shift(theirs, tags.get(SHIFT_TAG), self.config.shift)
        shown = self._wait_for(self._models.ensure(theirs))
        _check_capability(theirs, kw.get("task"), shown)
        model = OllamaModel(
            theirs,
            repeat_penalty=_own_repeat_penalty(shown),
            most_context=None if self.config.max_context else shown.context_length or UNTOLD_CONTEXT,
            shift=shift,
            sees="vision" in (shown.capabilities or ()),
        )
        with self._held_lock:
            self._held[theirs].add(model)
        return model

    def expected_size(self, name: str, **kw: Any) -> tuple[int, str]:
        """Return 0 bytes: the server holds the model, so nothing here is evicted for it."""
        return 0, self.model_device(None)

    def submit(
        self,
        model: OllamaModel,
        inputs: dict[str, Any],
        options: dict[str, Any],
        emit: Emit | None = None,
        *,
        urgency: Urgency = NO_HURRY,
    ) -> Future[dict[str, Any]]:
        """Start one input and return at once; cancelling the future closes the stream, which ends the work. The raw
        result is that of `engines.ollama.answer.Answer.result`."""
        answer = self._background.submit(self._answer(model, inputs, options, emit, urgency, begin_later()))
        with self._held_lock:
            self._under_way.add(answer)
        answer.add_done_callback(self._ended)
        return answer

    def infer(self, model: OllamaModel, inputs: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
        """Return the raw result of one input.

        Raises:
            InferenceError: what `engines.ollama.failures` lists.
        """
        return self._wait_for(self._answer(model, inputs, options, None, NO_HURRY))

    def last_sign(self, model: OllamaModel) -> float:
        """Return when the server last sent something, for any model: one may have to wait there for another."""
        return self._heard_at if self._under_way else time.monotonic()

    def unload_model(self, model: OllamaModel) -> bool:
        """Ask the server to unload the model when it is idle, unless another of our models is the same one there;
        return whether it was asked. Never raises."""
        with self._held_lock:
            ours = self._held[model.name]
            ours.discard(model)
            if ours:
                return False
            del self._held[model.name]
        try:
            self._wait_for(self._client.unload(model.name))
        except InferenceError as error:
            log.info("model_not_unloaded", model=model.name, error=error.message)
            return False
        return True

    def health(self) -> dict[str, Any]:
        """Return {"status": ok, server, version, loaded: [names]} or {"status": error, server, error}."""
        report: dict[str, Any] = {"status": "ok", "server": self._client.failures.server}
        try:
            return {**report, **self._wait_for(self._client.health())}
        except InferenceError as error:
            return {**report, "status": "error", "error": error.message}

    def close(self) -> None:
        """Take no more requests, fail those under way as retryable, and end the thread."""
        self._background.close()

    async def _answer(self, model: OllamaModel, *asked: Any) -> dict[str, Any]:
        try:
            return await self._ask(model, *asked)
        except ModelMissing:  # removed from the server after it was loaded here
            await self._models.ensure(model.name)
            return await self._ask(model, *asked)

    async def _ask(
        self,
        model: OllamaModel,
        inputs: dict[str, Any],
        options: dict[str, Any],
        emit: Emit | None,
        urgency: Urgency,
        begin: Callable[[], None] = lambda: None,
    ) -> dict[str, Any]:
        async with self._slots.held(urgency):
            begin()
            if "images" in inputs:  # encoding them would delay the other streams
                path, body = await asyncio.to_thread(build, model, inputs, options)
            else:
                path, body = build(model, inputs, options)
            answer = Answer(emit)

            def hear(chunk: AnswerChunk) -> None:
                self._heard_at = time.monotonic()
                answer.hear(chunk)

            last = await self._client.answer(path, body, model=model.name, hear=hear)
        if not last.done and not answer.repeats_itself:
            raise self._client.failures.of_cut(model.name)
        return answer.result(last)

    def _wait_for(self, work: Coroutine[Any, Any, T]) -> T:
        future = self._background.submit(work)
        try:
            return future.result()
        finally:
            future.cancel()  # only after an interrupt does it still run

    def _ended(self, answer: Future[Any]) -> None:
        with self._held_lock:
            self._under_way.discard(answer)
        if not answer.cancelled():
            self._heard_at = time.monotonic()

    def _tell(self, progress: PullProgress) -> None:
        self._heard_at = time.monotonic()
        if self.on_progress is not None:
            with failures_logged(log, "progress_listener_failed", model=progress.model):
                self.on_progress(progress)


def _check_capability(model: str, task: str | None, shown: Shown) -> None:
    needed = NEEDED_CAPABILITY.get(task or "")
    if needed is None or shown.capabilities is None or needed in shown.capabilities:
        return
    raise ModelLoadFailed(
        f"model {model} cannot do task {task}: Ollama says it is capable of "
        f"{', '.join(shown.capabilities) or 'nothing'}, not of {needed}; name another model"
    )


def _shift(model: str, tag: str | None, setting: bool | None) -> bool | None:
    """Return `shift` of `model`: one value for all its requests."""
    if tag is None:
        return setting
    if tag.lower() not in ("true", "false"):
        raise ModelLoadFailed(f"the tag {SHIFT_TAG} of model {model} is {tag!r}; it must be true or false")
    return tag.lower() == "true"


def _own_repeat_penalty(shown: Shown) -> float:
    try:
        return float(shown.parameter("repeat_penalty") or 1.0)
    except ValueError:
        return 1.0
