"""The transformers engine when something fails: a bad input, the memory, a load."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from engines.transformers.engine import TransformersEngine
from engines.transformers.runner import Outcome, TaskRunner
from handlers.errors import InferenceFailed, InvalidInput, OutOfMemory


class Faulty(TaskRunner):
    """Answers with its input, except that some inputs raise."""

    def __init__(self, *errors: Exception) -> None:
        super().__init__("faulty", cast(Any, None))
        self.errors = errors
        self.batches: list[int] = []

    @classmethod
    def load(cls, folder: Any, shared: Any) -> Faulty:
        raise NotImplementedError

    def prepare(self, inputs: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
        return inputs

    def answer(self, prepared: Sequence[dict[str, Any]]) -> Iterator[tuple[int, Outcome]]:
        self.batches.append(len(prepared))
        for one in prepared:
            if "fault" in one:
                raise self.errors[one["fault"]]
        yield from enumerate(prepared)


@pytest.mark.logs_errors("inference_failed")
def test_a_failed_batch_is_run_in_halves_and_only_the_bad_inputs_fail(engine: TransformersEngine) -> None:
    runner = Faulty(ValueError("odd shape"), InvalidInput("data.inputs is bad"))
    outcomes = engine.infer_batch(runner, [{"n": 1}, {"fault": 0}, {"fault": 1}, {"n": 4}], [{}] * 4)
    assert outcomes[0] == {"n": 1}
    assert outcomes[3] == {"n": 4}
    assert isinstance(outcomes[1], InferenceFailed)
    assert outcomes[1].message == "model faulty failed on this input: ValueError: odd shape"
    assert isinstance(outcomes[2], InvalidInput)
    assert runner.batches == [4, 2, 1, 1, 2, 1, 1]


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB"),
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."),
        torch.AcceleratorError("CUDA error: out of memory\nCUDA kernel errors might be reported later"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    ],
)
def test_running_out_of_memory_is_retryable_and_says_so(engine: TransformersEngine, error: Exception) -> None:
    [outcome] = engine.infer_batch(Faulty(error), [{"fault": 0}], [{}])
    assert isinstance(outcome, OutOfMemory)
    assert outcome.retryable
    assert "out of memory on this input" in outcome.message


def test_the_real_allocator_of_torch_is_recognised_when_it_gives_up(engine: TransformersEngine) -> None:
    try:
        torch.empty(1 << 60, dtype=torch.uint8)
    except RuntimeError as error:
        [outcome] = engine.infer_batch(Faulty(error), [{"fault": 0}], [{}])
    assert isinstance(outcome, OutOfMemory)


def test_a_load_that_runs_out_of_memory_keeps_nothing_of_what_it_had_loaded(
    engine: TransformersEngine, llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[weakref.ref[torch.Tensor]] = []

    def half(folder: Any, shared: Any) -> TaskRunner:
        weights = torch.zeros(9)
        loaded.append(weakref.ref(weights))
        raise torch.OutOfMemoryError("no room")

    freed: list[bool] = []
    monkeypatch.setattr("engines.transformers.generation.runner.TextGenerationRunner.load", half)
    monkeypatch.setattr("engines.transformers.device.free_memory", lambda: freed.append(loaded[0]() is None))
    with pytest.raises(OutOfMemory, match="model tiny does not fit the memory of") as caught:
        engine.load_model("tiny", task="text-generation", path=llama)
    assert freed == [True]
    assert caught.value.retryable
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


def test_an_input_for_which_there_is_no_memory_before_it_starts_is_worth_another_try(
    engine: TransformersEngine, llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = engine.load_model("tiny", task="text-generation", path=llama)

    def full(inputs: Any) -> Any:
        raise torch.OutOfMemoryError("no room for its pixels")

    monkeypatch.setattr(runner, "prompt", full)
    with pytest.raises(OutOfMemory, match="model tiny ran out of memory on this input") as caught:
        engine.submit(runner, {"inputs": "a"}, {})
    assert caught.value.retryable


@pytest.mark.logs_errors("inference_failed")
def test_infer_raises_what_the_batch_returns(engine: TransformersEngine) -> None:
    with pytest.raises(InferenceFailed, match="odd shape"):
        engine.infer(Faulty(ValueError("odd shape")), {"fault": 0}, {})
