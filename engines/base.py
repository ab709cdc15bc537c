"""The contract of an engine: load a model, run it on inputs, let it go; and how a batch finds what fails in it."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

from pydantic import BaseModel

from engines.log_context import working_on_number
from handlers.errors import InferenceError, InferenceFailed, is_out_of_memory, out_of_memory, words_of
from handlers.logger import get_logger
from handlers.options.spec import NO_BOUNDS, Bounds
from handlers.signals import is_of_a_signal

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class PullProgress:
    """How far the download of a model to an engine's own server is."""

    model: str
    """What the server calls it."""
    status: str
    """Ollama's own words; "success" is the last, and "failed" ours for a pull that came to nothing."""
    completed_bytes: int = 0
    total_bytes: int = 0
    """Of the layers that the server has begun by now, so it grows."""


ProgressListener = Callable[[PullProgress], None]

Emit = Callable[[str], None]
"""Called with the next piece of a growing answer."""

Early = Callable[[int, dict[str, Any] | InferenceError], None]
"""Called with the number of an input in its batch and what became of it, before the others are done."""

Urgency = tuple[float, float]
"""Minus the priority, and the deadline in unix seconds, infinity for none: the smallest goes first."""

NO_HURRY: Urgency = (0.0, math.inf)


class BaseEngine(ABC):
    """Loads models and runs inputs on them.

    One instance lives as long as the worker. Calls come from worker threads; calls for one loaded model never
    overlap (but for `submit`), calls for different models may. Only `load_model`, `infer` and `unload_model`
    must be written: batching has a working default, one input after the other.
    """

    name: ClassVar[str] = ""
    """The name requests carry in `engine`; set by registration where it is empty."""

    supported_tasks: frozenset[str] = frozenset()
    """Tasks this engine can run; empty means any."""

    continuous_tasks: frozenset[str] = frozenset()
    """Tasks whose requests are started one by one as they come, by `submit`, and overlap on one model; the
    others run in batches, by `infer_batch`."""

    needs_files: ClassVar[bool] = True
    """Whether the registry must bring the model's files to this machine before `load_model`."""

    loads_by_task: ClassVar[bool] = True
    """Whether what `load_model` gives depends on the task. Where not, it is loaded once for all tasks of a model."""

    settings_class: ClassVar[type[BaseModel] | None] = None
    """A pydantic model of what can be set for this engine, in section `engines` of the settings under its name.
    One of them, checked, is the `config` that `__init__` gets; without a class there is nothing to set."""

    option_bounds: Bounds = NO_BOUNDS
    """The largest values that this engine's settings allow to requests, by the setting's name, for options whose
    `OptionSpec.bound` names one of them."""

    on_progress: ProgressListener | None = None
    """Called with progress of downloads to the engine's server, where it has one; set before the first model is loaded.
    It is called in a thread of the engine and must not block."""

    def __init__(self, config: Any = None) -> None:
        self.config = config
        self.is_initialized = True

    @abstractmethod
    def load_model(self, name: str, **kw: Any) -> Any:
        """Return a loaded model; whatever object it is, it comes back in `infer` and `unload_model`.

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
        """Return one raw result or error per input, in order; a bad input never costs its neighbours theirs."""
        outcomes: list[dict[str, Any] | InferenceError] = []
        for number, (one_input, its_options) in enumerate(zip(inputs, options, strict=True)):
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
        self,
        model: Any,
        inputs: Sequence[dict[str, Any]],
        options: Sequence[dict[str, Any]],
        early: Early,
    ) -> list[dict[str, Any] | InferenceError]:
        """Do as `infer_batch`, and call `early`, from one thread, with the number and the outcome of each input that
        need not wait for the others: its request is answered at once. An engine whose inputs take differently long
        overrides this; what it told stands, also where it raises afterwards and what is left runs again."""
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

        The future ends with the raw result or an InferenceError. Cancelling it stops the work for this input
        alone. `emit` is called with each piece of the answer, in a thread of the engine; it must not
        block. Where inputs have to wait for room, the one of the smallest `urgency` is next, and among equals
        the first that came. Calls come from any thread and overlap.
        """
        raise NotImplementedError(f"engine {self.name} runs its tasks in batches")

    def last_sign(self, model: Any) -> float | None:
        """Return when, by time.monotonic, the model last gave something back for `submit`: a token, an answer, or
        noticed a cancel; None where nothing is under way. Never blocks. Without it calls of `emit`, and futures
        that end, tell.

        A model that is silent for worker.infer_timeout_s counts as stuck.
        """
        return None

    def cost(self, task: str, inputs: Mapping[str, Any], options: Mapping[str, Any]) -> float:
        """Return what one input takes of a batch, in a unit of the engine's own for the task: pixels, seconds of
        sound, frames, tokens. A batch takes its number of inputs times the largest cost among them."""
        return 1.0

    def max_cost(self, task: str) -> float:
        """Return what a batch may take, in the unit of `cost`; an input that takes more runs by itself.

        Without an `infer_batch` of its own an engine gains nothing by batches, so each input runs alone: it
        waits for no other, and the next is the most urgent one.
        """
        return 1.0 if type(self).infer_batch is BaseEngine.infer_batch else math.inf

    def batch_key(self, options: Mapping[str, Any]) -> str:
        """Return what must agree between requests of one model that run in one batch; equal keys may share."""
        return ""

    def expected_size(self, name: str, **kw: Any) -> tuple[int, str] | None:
        """Return what `load_model` with these arguments would give, as `model_bytes` and `model_device` tell it
        afterwards; None where that is not known before. Rather too little than too much: a model that would
        exceed the cache's budget by itself is not loaded. Other models make room for it before, but not for 0
        bytes: another server holds those.

        Raises:
            InferenceError: as `load_model`, where that is certain before any weights are read: no model has to
                leave for one that is refused.
        """
        return None

    def model_bytes(self, model: Any) -> int:
        """Return the bytes of memory the loaded model holds; 0 where another server holds it."""
        return 0

    def shared_memory(self, model: Any) -> Hashable | None:
        """Return what is equal for loaded models that are the same bytes in memory, as of one version loaded for
        two tasks: `model_bytes` of theirs count once. None where they are its own."""
        return None

    def is_shared(self, model: Any) -> bool:
        """Return whether another loaded model is the same bytes in memory, so that neither the load nor the unload of
        this one changes what is there."""
        return False

    def model_device(self, model: Any) -> str:
        """Return where those bytes are: `cuda:N`, or anything else for what is in RAM."""
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
    """Return `run(items)`, or what comes of running the halves where that raises, down to single items.

    One bad item among n costs its neighbours 2 log2(n) more runs. `failed` is called with every batch that raised,
    before its halves run, and says what takes the place of the outcome of one that raises by itself. Whatever is
    raised counts, a BaseException too; what `failed` raises ends it all.
    """
    try:
        return run(items)
    except BaseException as error:  # noqa: BLE001 - it is told by `failed`
        outcome = failed(items, error)
    # The exception is gone by now, and with it the frames that hold what the failed run had in memory.
    if len(items) == 1:
        return [outcome]
    middle = len(items) // 2
    return [
        *bisected(run, items[:middle], failed=failed),
        *bisected(run, items[middle:], failed=failed),
    ]
