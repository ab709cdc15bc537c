"""Every way a request can fail, each with its wire code and whether trying again can help.

    InferenceError
    |-- InvalidRequest ........ INVALID_REQUEST        the message itself is wrong: shape, types, missing fields
    |   |-- InvalidInput ...... INVALID_INPUT          a field of `data` is missing or of the wrong kind
    |   |-- InvalidOption ..... INVALID_OPTION         an option is unknown, out of range or not for this engine
    |   |-- UnknownTask ....... UNKNOWN_TASK           no handler is registered under that name
    |   |-- UnknownEngine ..... UNKNOWN_ENGINE         no engine is registered under that name
    |   |-- UnknownModel ...... UNKNOWN_MODEL          the registry has no such model, version or alias
    |   |-- ModelMismatch ..... MODEL_MISMATCH         the model's tags contradict the request's task or engine
    |   `-- Undecodable ....... UNDECODABLE            no JSON object in the message, so no id can be known
    |-- MediaError
    |   |-- MediaNotFound ..... MEDIA_NOT_FOUND        no object, bucket or file at that address
    |   |-- MediaForbidden .... MEDIA_FORBIDDEN        the store or our own rules refuse the address
    |   |-- MediaTooLarge ..... MEDIA_TOO_LARGE        more bytes, pixels, seconds or pages than the limit
    |   |-- MediaCorrupt ...... MEDIA_CORRUPT          the bytes are not what they claim to be
    |   `-- MediaUnavailable .. MEDIA_UNAVAILABLE      the store did not answer in time          (retryable)
    |-- RegistryUnavailable ... REGISTRY_UNAVAILABLE   MLflow did not answer in time             (retryable)
    |-- EngineUnavailable ..... ENGINE_UNAVAILABLE     the engine's server is away or stopping   (retryable)
    |-- ModelLoadFailed ....... MODEL_LOAD_FAILED      the files are there, the model is not usable
    |-- InferenceFailed ....... INFERENCE_FAILED       the model raised on this input
    |-- OutOfMemory ........... OUT_OF_MEMORY          this does not fit the memory now          (retryable)
    |-- InferenceTimeout ...... INFERENCE_TIMEOUT      engine or handler did not respond in time     (retryable)
    |-- DeadlineExceeded ...... DEADLINE_EXCEEDED      the request's own deadline has passed
    |-- Cancelled ............. CANCELLED              the caller withdrew the request
    |-- Busy .................. BUSY                   more work is waiting than this worker takes (retryable)
    |-- WorkerCrashed ......... WORKER_CRASHED         each worker that ran this request ended with it
    |-- ResultTooLarge ........ RESULT_TOO_LARGE       the answer exceeds what the broker accepts
    `-- InternalError ......... INTERNAL_ERROR         a fault of ours, logged with its stack trace

A message names the field, the value, what is allowed and what to do, and is safe to show to the caller. `retryable`
says whether the very same request may succeed later. HTTP statuses are in `streams.http.answers`.
"""

from __future__ import annotations

import errno
from typing import ClassVar

from handlers.signals import is_of_a_signal


class InferenceError(Exception):
    """Base of all errors that reach a caller; a subclass inherits `code` and `retryable` or sets its own."""

    code: ClassVar[str] = "INTERNAL_ERROR"
    retryable: ClassVar[bool] = False

    def __init_subclass__(cls, code: str = "", retryable: bool = False) -> None:
        if code:
            cls.code, cls.retryable = code, retryable

    @property
    def message(self) -> str:
        """The sentence the caller reads."""
        return str(self.args[0]) if self.args else self.code


class InvalidRequest(InferenceError, code="INVALID_REQUEST"): ...


class InvalidInput(InvalidRequest, code="INVALID_INPUT"): ...


class InvalidOption(InvalidRequest, code="INVALID_OPTION"): ...


class UnknownTask(InvalidRequest, code="UNKNOWN_TASK"): ...


class UnknownEngine(InvalidRequest, code="UNKNOWN_ENGINE"): ...


class UnknownModel(InvalidRequest, code="UNKNOWN_MODEL"): ...


class ModelMismatch(InvalidRequest, code="MODEL_MISMATCH"): ...


class Undecodable(InvalidRequest, code="UNDECODABLE"): ...


class MediaError(InferenceError): ...


class MediaNotFound(MediaError, code="MEDIA_NOT_FOUND"): ...


class MediaForbidden(MediaError, code="MEDIA_FORBIDDEN"): ...


class MediaTooLarge(MediaError, code="MEDIA_TOO_LARGE"): ...


class MediaCorrupt(MediaError, code="MEDIA_CORRUPT"): ...


class MediaUnavailable(MediaError, code="MEDIA_UNAVAILABLE", retryable=True): ...


class RegistryUnavailable(InferenceError, code="REGISTRY_UNAVAILABLE", retryable=True): ...


class EngineUnavailable(InferenceError, code="ENGINE_UNAVAILABLE", retryable=True): ...


class ModelLoadFailed(InferenceError, code="MODEL_LOAD_FAILED"): ...


class InferenceFailed(InferenceError, code="INFERENCE_FAILED"): ...


class OutOfMemory(InferenceError, code="OUT_OF_MEMORY", retryable=True): ...


class InferenceTimeout(InferenceError, code="INFERENCE_TIMEOUT", retryable=True): ...


class DeadlineExceeded(InferenceError, code="DEADLINE_EXCEEDED"): ...


class Cancelled(InferenceError, code="CANCELLED"): ...


class Busy(InferenceError, code="BUSY", retryable=True): ...


class WorkerCrashed(InferenceError, code="WORKER_CRASHED"): ...


class ResultTooLarge(InferenceError, code="RESULT_TOO_LARGE"): ...


class InternalError(InferenceError, code="INTERNAL_ERROR"): ...


def words_of(error: BaseException) -> str:
    """Return type and message of a foreign error; only the type where its `__str__` raises."""
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:  # noqa: BLE001 - what an error says about itself must not become another one
        return type(error).__name__


_NO_MEMORY = (
    "can't allocate memory",  # torch's allocator of the machine's memory
    "CUDA error: out of memory",  # memory that others than torch's allocator of the device ask for
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)
"""The message of a RuntimeError when memory ran out, where it is not torch's OutOfMemoryError (torch is not imported
here)."""


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether `error` means that this process, the machine or its GPU is out of memory."""
    if isinstance(error, RuntimeError):
        return type(error).__name__ == "OutOfMemoryError" or any(sign in str(error) for sign in _NO_MEMORY)
    return isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM)


def out_of_memory(where: str, cure: str = "send a smaller input") -> OutOfMemory:
    """Return the error of a request for which memory ran out `where`, as in "in its preprocess"."""
    return OutOfMemory(
        f"the worker ran out of memory {where}; send the request again later, {cure}, or give the worker more memory"
    )


def counted(number: int, what: str) -> str:
    """Return "1 page" or "2 pages", as a message says it."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def as_inference_error(error: BaseException, where: str = "on this request") -> InferenceError:
    """Return `error` itself if it is an InferenceError, OutOfMemory if memory ran out `where`, else an InternalError.

    For anything that code of engines, handlers and libraries raises, also BaseExceptions: a panic of a Rust library,
    SystemExit and a stray CancelledError fail one request. The caller logs the original with its stack trace; the
    InternalError shows only the type's name.

    Raises:
        BaseException: `error`, where it comes from a signal to this process, such as Ctrl-C.
    """
    if isinstance(error, InferenceError):
        return error
    if is_of_a_signal(error):
        raise error
    if is_out_of_memory(error):
        return out_of_memory(where)
    return InternalError(
        f"an unexpected {type(error).__name__} stopped this request; it is logged by the worker under its id"
    )
