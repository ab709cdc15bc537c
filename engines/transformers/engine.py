"""TransformersEngine: runs the models of the registry in this process, on the CPU or on CUDA."""

from __future__ import annotations

import json
import math
import threading
from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engines.base import NO_HURRY, BaseEngine, Early, Emit, Urgency, bisected
from engines.config.settings import TransformersSettings
from engines.log_context import working_on_number
from engines.transformers.device import (
    as_run_error,
    choose_device,
    choose_dtype,
    free_memory,
    out_of_memory,
    prepare_torch,
    unless_out_of_memory,
)
from engines.transformers.memory_limits import WINDOW_S, cost_of
from engines.transformers.process_state import loading, loads
from engines.transformers.runner import OWN_OPTIONS, RUNNERS, Outcome, TaskRunner, runner_of
from engines.transformers.shared_models import SharedModels
from handlers.errors import InferenceError, ModelLoadFailed, OutOfMemory
from handlers.logger import get_logger
from handlers.signals import is_of_a_signal

if TYPE_CHECKING:
    from engines.transformers.loading import ModelFolder

log = get_logger(__name__)


class TransformersEngine(BaseEngine):
    """Runs each task by its `TaskRunner`, which is also the loaded model. Torch is imported with the first model. Its
    number of threads holds for the whole process."""

    name = "transformers"
    supported_tasks = frozenset(RUNNERS)
    continuous_tasks = frozenset({"text-generation", "vlm"})

    def __init__(self, config: TransformersSettings | None = None) -> None:
        super().__init__(config or TransformersSettings())
        self._prepared = False
        self._shared = SharedModels()
        self._lock = threading.Lock()
        self._users = Counter[Hashable]()
        """How many runners in memory have one `shared_memory`."""

    def load_model(self, name: str, **kw: Any) -> TaskRunner:
        """Return the runner of the model in folder `path` for `task`.

        Raises:
            ModelLoadFailed: permanent; no task, no folder, or no usable model of that kind in it.
            OutOfMemory: retryable; the model does not fit now.
        """
        folder = self._folder(name, kw)
        with _load_errors(name):
            runner = unless_out_of_memory(lambda: runner_of(kw["task"], folder).load(folder, self._shared))
        if runner is None:
            raise OutOfMemory(f"model {name} does not fit the memory of {folder.device} now")
        self._count(runner, 1)
        return runner

    def infer(self, model: TaskRunner, inputs: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
        [outcome] = self.infer_batch(model, [inputs], [options])
        if isinstance(outcome, InferenceError):
            raise outcome
        return outcome

    def submit(
        self,
        model: Any,
        inputs: dict[str, Any],
        options: dict[str, Any],
        emit: Emit | None = None,
        *,
        urgency: Urgency = NO_HURRY,
    ) -> Future[dict[str, Any]]:
        """Start to generate one text, beside those under way."""
        try:
            started: Future[dict[str, Any]] | None = unless_out_of_memory(
                lambda: model.submit(inputs, options, emit, urgency)
            )
        except BaseException as error:
            raise as_run_error(error, model.name) from error
        if started is None:
            raise out_of_memory(model.name)
        return started

    def infer_batch(
        self,
        model: TaskRunner,
        inputs: Sequence[dict[str, Any]],
        options: Sequence[dict[str, Any]],
        early: Early = lambda number, outcome: None,
    ) -> list[Outcome]:
        """Return one raw result or error per input, in order; if the batch fails, its halves run. If a batch does not
        fit the memory, later ones of this model take at most half of its cost."""

        def run_part(part: Sequence[int]) -> list[Outcome]:
            return model.run(
                [inputs[number] for number in part],
                [options[number] for number in part],
                lambda place, outcome: early(part[place], outcome),
            )

        def run(numbers: Sequence[int]) -> list[Outcome]:
            return model.budget.run(run_part, numbers, [cost_of(inputs[number]) for number in numbers])

        def failed(numbers: Sequence[int], error: BaseException) -> Outcome:
            if len(numbers) > 1:
                log.warning("batch_failed", model=model.name, inputs=len(numbers), error=repr(error))
            elif not isinstance(error, InferenceError):
                with working_on_number(numbers[0], len(inputs)):
                    log.error("inference_failed", model=model.name, exc_info=error)
            # Kept with the outcome, the traceback would keep the memory of the failed run.
            return as_run_error(error, model.name).with_traceback(None)

        return bisected(run, range(len(inputs)), failed=failed)

    infer_each = infer_batch

    def cost(self, task: str, inputs: Mapping[str, Any], options: Mapping[str, Any]) -> float:
        cost = cost_of(inputs)
        return max(WINDOW_S, cost) if task == "asr" else cost

    def max_cost(self, task: str) -> float:
        limits: Mapping[str, float] = {
            "asr": self.config.batch_audio_s,
            "audio-classification": self.config.batch_audio_s,
            "ocr": self.config.batch_pixels,
            "video-analysis": self.config.batch_frames,
            "document-analysis": self.config.batch_pages,
        }
        return limits.get(task, math.inf)

    def last_sign(self, model: TaskRunner) -> float | None:
        """Return when a text under way last grew; None where none is, or the model was unloaded."""
        return model.last_sign() if hasattr(model, "model") else None

    def unload_model(self, model: TaskRunner) -> bool:
        """Free the model's memory, on the CUDA device too; the runner is empty afterwards."""
        if not hasattr(model, "model"):
            return False
        self._count(model, -1)
        try:
            model.close()
        finally:
            vars(model).clear()  # a runner of several models refers to them in several places
            free_memory()
        return True

    def batch_key(self, options: Mapping[str, Any]) -> str:
        """Return the options that must be equal within a batch: those that runners do not keep per row."""
        return json.dumps({name: options[name] for name in sorted(options) if name not in OWN_OPTIONS}, default=str)

    def expected_size(self, name: str, **kw: Any) -> tuple[int, str] | None:
        """Return the bytes of the weights in folder `path` in the number format of the settings, and the device.

        0 bytes where another task has them in memory; None where they are not safetensors.

        Raises:
            ModelLoadFailed: permanent; what `load_model` refuses before it reads any weights.
        """
        folder = self._folder(name, kw)
        from engines.transformers.loading import bytes_in_memory

        with _load_errors(name):
            runner_of(kw["task"], folder)
        if self._shared.holds(folder.path):
            return 0, str(folder.device)
        size = bytes_in_memory(folder.path, folder.dtype.itemsize)
        return None if size is None else (size, str(folder.device))

    def model_bytes(self, model: TaskRunner) -> int:
        """Return the bytes of the model's parameters and buffers; shared ones count once."""
        tensors = [*model.model.parameters(), *model.model.buffers()]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    def shared_memory(self, model: TaskRunner) -> Hashable:
        return id(model.model)  # the network: runners of several tasks may have the same

    def is_shared(self, model: TaskRunner) -> bool:
        return self._users[self.shared_memory(model)] > 1

    def _count(self, runner: TaskRunner, change: int) -> None:
        with self._lock:
            self._users[self.shared_memory(runner)] += change
            self._users += Counter()  # those that are zero left out

    def model_device(self, model: TaskRunner) -> str:
        weights = next(model.model.parameters(), None)
        return "cpu" if weights is None else str(weights.device)

    def health(self) -> dict[str, Any]:
        """Return the status, with device and number format once torch is loaded; error where a load hangs."""
        report: dict[str, Any] = {"status": "ok", "device": self.config.device}
        if not self._prepared:
            return report
        try:
            device = choose_device(self.config)
        except ModelLoadFailed as error:
            return {"status": "error", "error": error.message}
        if (problem := loads.problem) is not None:
            return {"status": "error", "error": problem}
        return {**report, "device": str(device), "torch_dtype": str(choose_dtype(self.config, device))}

    def _folder(self, name: str, kw: Mapping[str, Any]) -> ModelFolder:
        task, path = kw.get("task"), kw.get("path")
        if task not in RUNNERS:
            raise ModelLoadFailed(f"model {name}: transformers runs {', '.join(sorted(RUNNERS))}, not {task!r}")
        if path is None or not Path(path).is_dir():
            raise ModelLoadFailed(f"model {name}: there is no folder at {path}; register the model again")
        with loading():  # transformers imports its parts lazily, too
            if not self._prepared:
                prepare_torch(self.config.threads)
                self._prepared = True
            from engines.transformers.loading import ModelFolder

        device = choose_device(self.config)
        return ModelFolder(
            name=name,
            path=Path(path),
            device=device,
            dtype=choose_dtype(self.config, device),
            settings=self.config,
        )


@contextmanager
def _load_errors(name: str) -> Iterator[None]:
    """Make any exception of the body an error about model `name`."""
    try:
        yield
    except BaseException as error:
        if isinstance(error, InferenceError) or is_of_a_signal(error):
            raise
        log.error("model_load_failed", model=name, exc_info=error)
        first_line = str(error).strip().partition("\n")[0]
        raise ModelLoadFailed(f"model {name} did not load: {type(error).__name__}: {first_line}") from error
