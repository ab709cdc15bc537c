"""The contract of an engine: load a model, run it on inputs, unload it; and the bisection of failed batches."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

from pydantic import BaseModel

from engines.log_context import working_on_number
from handlers.errors import Cancelled, InferenceError, InferenceFailed, is_out_of_memory, out_of_memory, words_of
from handlers.logger import get_logger
from handlers.options.spec import NO_BOUNDS, Bounds
from handlers.signals import is_of_a_signal

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class PullProgress:
    """Progress of the download of a model to an engine's server."""

    model: str
    """The server's name of the model."""
    status: str
    """The status as Ollama words it, "success" at the end; "failed" is added here for a pull that failed."""
    completed_bytes: int = 0
    total_bytes: int = 0
    """Size of the layers that the server has begun, so it grows."""


ProgressListener = Callable[[PullProgress], None]

Emit = Callable[[str], None]
"""Called with the next piece of an answer."""

Early = Callable[[int, dict[str, Any] | InferenceError], None]
"""Called with the number of an input in its batch and its outcome, before the others are done."""

Urgency = tuple[float, float]
"""Minus the priority, and the deadline in unix seconds, infinity for none: the smallest goes first."""

NO_HURRY: Urgency = (0.0, math.inf)

_is_wanted: ContextVar[Callable[[], bool]] = ContextVar("is_wanted", default=lambda: True)


@contextmanager
def wanted_while(is_wanted: Callable[[], bool]) -> Iterator[None]:
    """Let `stop_if_unwanted` ask `is_wanted` during the body, also in threads that take over its context."""
    before = _is_wanted.set(is_wanted)
    try:
        yield
    finally:
        _is_wanted.reset(before)


def unwanted() -> Cancelled:
    """Return the outcome of a request whose caller has gone."""
    return Cancelled("the caller does not wait for the answer any more")


def stop_if_unwanted() -> None:
    """Stop a batch for which no caller waits any more; engines call it between the passes of long work.

    Raises:
        Cancelled: permanent; the deadline of each request of the batch that has no outcome yet has passed, or its
            caller has gone.
    """
    if not _is_wanted.get()():
        raise unwanted()


_waiting: ContextVar[Callable[[], Callable[[], None]]] = ContextVar("waiting", default=lambda: lambda: None)


@contextmanager
def told_of_waiting(waits: Callable[[], Callable[[], None]]) -> Iterator[None]:
    """Let `begin_later` call `waits` during the body, and return what it returns."""
    before = _waiting.set(waits)
    try:
        yield
    finally:
        _waiting.reset(before)


def begin_later() -> Callable[[], None]:
    """Tell that the input of this call of `submit` waits in the engine, for room in a batch, say.

    Call the returned function, from any thread, when work on the input begins. Until then the request counts as not
    begun: a worker that loses its partition leaves it to the next owner.
    """
    return _waiting.get()()


class BaseEngine(ABC):
    """Loads models and runs inputs on them; one instance lives as long as the worker. Calls come from worker threads;
    calls for one loaded model never overlap (but for `submit`), calls for different models may. Only `load_model`,
    `infer` and `unload_model` must be written: batching has a working default, one input after the other."""

    name: ClassVar[str] = ""
    """The name requests carry in `engine`; set by registration where it is empty."""

    supported_tasks: frozenset[str] = frozenset()
    """Tasks this engine can run; empty means any."""

    continuous_tasks: frozenset[str] = frozenset()
    """Tasks whose requests are started one by one as they come, by `submit`, and overlap on one model; the
    others run in batches, by `infer_batch`."""

    needs_files: ClassVar[bool] = True
    """Whether the model's files must be on this machine before `load_model`."""

    loads_by_task: ClassVar[bool] = True
    """Whether `load_model` returns something else for each task. If not, a model is loaded once for all tasks."""

    settings_class: ClassVar[type[BaseModel] | None] = None
    """A pydantic model of this engine's settings, which users write under `engines.<name>`. `__init__` gets a checked
    instance as `config`. None: there is nothing to set."""

    option_bounds: Bounds = NO_BOUNDS
    """The largest values of options that this engine's settings allow, by the name of the setting
    (`OptionSpec.bound`)."""

    on_progress: ProgressListener | None = None
    """Called with progress of downloads to the engine's server, where it has one; set before the first model is
    loaded. It is called in a thread of the engine and must not block."""

    def __init__(self, config: Any = None) -> None:
        self.config = config
        self.is_initialized = True

    @abstractmethod
    def load_model(self, name: str, **kw: Any) -> Any:
        """Return a loaded model: any object; `infer` and `unload_model` get it back.

        `kw` carries `task`, `path` (the local folder, where `needs_files`), `version` and `tags`.

        Raises:
            ModelLoadFailed: permanent; the files are not a usable model for that task.
            OutOfMemory: retryable; it does not fit now.
            EngineUnavailable: retryable; the engine's server is away.
        """

    @abstractmethod
    def infer(self, model: Any, inputs: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
        """Return the raw result for one input that a handler preprocessed; `options` have canonical names.

        Raises:
            InferenceFailed: permanent; the model refuses this input.
            OutOfMemory: retryable; this input does not fit now.
        """

    @abstractmethod
    def unload_model(self, model: Any) -> bool:
        """Free the model's memory; return whether there was something to free."""

    def infer_batch(
        self, model: Any, inputs: Sequence[dict[str, Any]], options: Sequence[dict[str, Any]]
    ) -> list[dict[str, Any] | InferenceError]:
        """Return one raw result or error per input, in order; a bad input must not fail its neighbours."""
        outcomes: list[dict[str, Any] | InferenceError] = []
        for number, (one_input, its_options) in enumerate(zip(inputs, options, strict=True)):
            stop_if_unwanted()
            with working_on_number(number, len(inputs)):
                try:
                    outcomes.append(self.infer(model, one_input, its_options))
                except InferenceError as error:
                    outcomes.append(error)
                except BaseException as error:
                    if is_of_a_signal(error):
                        raise
                    log.exception("inference_failed", engine=self.name)
                    outcomes.append(
                        out_of_memory(f"as engine {self.name} ran this input")
                        if is_out_of_memory(error)
                        else InferenceFailed(f"engine {self.name} failed: {words_of(error)}")
                    )
        return outcomes

    def infer_each(
        self, model: Any, inputs: Sequence[dict[str, Any]], options: Sequence[dict[str, Any]], early: Early
    ) -> list[dict[str, Any] | InferenceError]:
        """As `infer_batch`, and call `early`, from one thread, with the number and outcome of each input that is done
        before the others: its request is answered at once. For engines whose inputs take different times. Outcomes
        passed to `early` stand, even if this raises afterwards and the remaining inputs run again."""
        return self.infer_batch(model, inputs, options)

    def submit(
        self,
        model: Any,
        inputs: dict[str, Any],
        options: dict[str, Any],
        emit: Emit | None = None,
        *,
        urgency: Urgency = NO_HURRY,
    ) -> Future[dict[str, Any]]:
        """Start one input and return at once; only for `continuous_tasks`.

        The future ends with the raw result or an InferenceError. Cancelling it stops the work for this input alone.
        `emit` is called with each piece of the answer, in a thread of the engine; it must not block. Where inputs
        wait for room, the one with the smallest `urgency` is next; among equals, the one that came first. An engine
        where inputs wait says so by `begin_later`. Calls come from any thread and overlap.
        """
        raise NotImplementedError(f"engine {self.name} runs its tasks in batches")

    def last_sign(self, model: Any) -> float | None:
        """Return when, by time.monotonic, the model last gave a sign of life for `submit`: a token, an answer or a
        handled cancel; None where nothing is under way. Never blocks. An engine that does not override this gives signs
        by calls of `emit` and by futures that end. A model that is silent for worker.infer_timeout_s counts as
        stuck."""
        return None

    def cost(self, task: str, inputs: Mapping[str, Any], options: Mapping[str, Any]) -> float:
        """Return what one input takes of a batch, in the engine's unit for the task (pixels, seconds of sound, frames,
        tokens); a batch costs its number of inputs times the largest cost among them."""
        return 1.0

    def max_cost(self, task: str) -> float:
        """Return the largest cost of a batch, in the unit of `cost`; an input that costs more runs alone, the most
        urgent first. So does each input of an engine that does not override `infer_batch`: batches gain it nothing."""
        return 1.0 if type(self).infer_batch is BaseEngine.infer_batch else math.inf

    def batch_key(self, options: Mapping[str, Any]) -> str:
        """Return a key that is equal for requests of one model that may share a batch."""
        return ""

    def expected_size(self, name: str, **kw: Any) -> tuple[int, str] | None:
        """Return, before the load, the expected `model_bytes` and `model_device`; None where they are not known.

        Rather return too little than too much: a model that exceeds the cache's budget by itself is not loaded. Other
        models are evicted for it before it loads, but not for 0 bytes: then another server holds the model.

        Raises:
            InferenceError: as `load_model`, if the failure is certain before weights are read: nothing is evicted then.
        """
        return None

    def model_bytes(self, model: Any) -> int:
        """Return the bytes of memory the loaded model holds; 0 where another server holds it."""
        return 0

    def shared_memory(self, model: Any) -> Hashable | None:
        """Return a key that is equal for loaded models with the same bytes in memory, which count once; None for a
        model with its own."""
        return None

    def is_shared(self, model: Any) -> bool:
        """Return whether another loaded model has the same bytes in memory: loading or unloading this one changes
        nothing there."""
        return False

    def model_device(self, model: Any) -> str:
        """Return where those bytes are: `cuda:N`, or any other text for RAM."""
        return "cpu"

    def health(self) -> dict[str, Any]:
        """Return {"status": "ok" | "error", ...} within 2 s; never raises."""
        return {"status": "ok"}

    def close(self) -> None:
        """Close threads and connections; called once, when no request is under way any more."""


T = TypeVar("T")
R = TypeVar("R")


def bisected(
    run: Callable[[Sequence[T]], list[R]],
    items: Sequence[T],
    *,
    failed: Callable[[Sequence[T], BaseException], R],
) -> list[R]:
    """Return `run(items)`; where it raises, run the halves instead, down to single items.

    One bad item among n costs its neighbours 2 log2(n) more runs. `failed` is called with every batch that raised,
    before its halves run, and returns the outcome of a single item that raised. Any exception counts, also a
    BaseException; an exception of `failed` ends it all.
    """
    try:
        return run(items)
    except Cancelled as error:  # no caller waits for any of them
        return [failed([item], error) for item in items]
    except BaseException as error:  # noqa: BLE001 - it is told by `failed`
        outcome = failed(items, error)
    # The exception is freed by now, and with it the frames that hold the failed run's memory.
    if len(items) == 1:
        return [outcome]
    middle = len(items) // 2
    return bisected(run, items[:middle], failed=failed) + bisected(run, items[middle:], failed=failed)
