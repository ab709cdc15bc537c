"""Sets torch up for this process (threads, device, number format), and copies inputs to the model's device."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from engines.config.settings import TransformersSettings
from engines.native_environment import set_torch_defaults
from engines.transformers.process_state import guard_transformers
from handlers.errors import InferenceError, InferenceFailed, ModelLoadFailed, OutOfMemory, is_out_of_memory
from handlers.signals import is_of_a_signal

if TYPE_CHECKING:
    import torch

T = TypeVar("T")


def prepare_torch(threads: int | None) -> None:
    """Import torch with `threads` threads (None: cores - 1) that sleep while they wait. They sleep because OpenMP
    reads its policy when torch is imported. After this call all loads by transformers in this process run one at a
    time."""
    set_torch_defaults()
    import torch
    from transformers.utils import logging as transformers_logging

    torch.set_num_threads(threads or max(1, len(os.sched_getaffinity(0)) - 1))
    # Torch's default on a GPU such as an H100 plans for 50 ms for every new number of rows or columns, and here each
    # step has one.
    torch.backends.cuda.enable_cudnn_sdp(False)
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    guard_transformers()


def choose_device(settings: TransformersSettings) -> torch.device:
    """Return the device of the settings; auto is CUDA where there is one.

    Raises:
        ModelLoadFailed: permanent; the settings name a device this machine lacks.
    """
    import torch

    if settings.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(settings.device)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ModelLoadFailed(
            f"transformers.device is {settings.device}, but torch sees {torch.cuda.device_count()} CUDA "
            "devices; set it to auto or cpu"
        )
    return device


def choose_dtype(settings: TransformersSettings, device: torch.device) -> torch.dtype:
    """Return the number format of the settings; auto is bf16 on CUDA (fp16 where that lacks), else fp32."""
    import torch

    if settings.torch_dtype != "auto":
        return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[settings.torch_dtype]
    if device.type != "cuda":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16


def free_memory() -> None:
    """Free unreferenced memory, on the CUDA device too. An exception that is being handled keeps its memory: its
    traceback refers to the tensors of every call under way."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def unless_out_of_memory(run: Callable[[], T]) -> T | None:
    """Return what `run` returns, None where memory ran out; the memory of the run is free again then."""
    try:
        return run()
    except Exception as error:
        if not is_out_of_memory(error):
            raise
    # Only here is the error freed, and with it the frames that hold the memory of the run.
    free_memory()
    return None


def out_of_memory(model: str) -> OutOfMemory:
    """Return the error of an input that does not fit the memory even alone."""
    return OutOfMemory(f"model {model} ran out of memory on this input; try later, or send a shorter one")


def as_run_error(error: BaseException, model: str) -> InferenceError:
    """Return the InferenceError for `error`, raised while `model` ran one input.

    Raises:
        BaseException: `error`, where a signal to this process raised it.
    """
    if isinstance(error, InferenceError):
        return error
    if is_out_of_memory(error):
        return out_of_memory(model)
    if is_of_a_signal(error):
        raise error
    return InferenceFailed(f"model {model} failed on this input: {type(error).__name__}: {error}")


def to_model(model: torch.nn.Module, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return `inputs` on the model's device; values that are not tensors of floats keep their type. `model` has
    `device` and `dtype`, as transformers' models do. A copy to a GPU may still be under way when this returns: later
    work on that GPU waits for it, but this thread does not."""
    import torch

    device: Any = model.device
    dtype: Any = model.dtype

    def moved(tensor: torch.Tensor) -> torch.Tensor:
        # Converted first: that halves the bytes to copy.
        kept = dtype if tensor.is_floating_point() else tensor.dtype
        if device.type != "cuda" or tensor.device.type != "cpu":
            return tensor.to(kept).to(device)
        pinned = torch.empty(tensor.shape, dtype=kept, pin_memory=True)
        pinned.copy_(tensor)  # converts on the way: one pass over the numbers
        return pinned.to(device, non_blocking=True)

    return {name: moved(value) if isinstance(value, torch.Tensor) else value for name, value in inputs.items()}
