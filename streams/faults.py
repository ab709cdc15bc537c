"""Faults of the process itself, not of a request: reported to the event loop, which ends the process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from handlers.errors import as_inference_error
from handlers.logger import get_logger

log = get_logger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

_IS_FAULT = "ends_the_process"


def supervised(task: asyncio.Task[T]) -> asyncio.Task[T]:
    """Return `task`; if it ends with an error, or with a CancelledError that is not a cancel, report a fault.

    For tasks that are not awaited, without which requests would wait for ever.
    """
    task.add_done_callback(_check)
    return task


def report_fault(error: BaseException, where: str) -> None:
    """Report a fault of this process to the running event loop; `where` names what ended."""
    asyncio.get_running_loop().call_exception_handler({"message": where, "exception": error, _IS_FAULT: True})


def tell_of_faults(fail: Callable[[BaseException], None]) -> None:
    """Call `fail` with every fault of the running event loop; otherwise faults are only logged."""

    def on_error(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if not context.get(_IS_FAULT):
            loop.default_exception_handler(context)
            return
        error = context["exception"]
        log.critical("process_fault", where=context["message"], exc_info=error)
        fail(error)

    asyncio.get_running_loop().set_exception_handler(on_error)


def was_cancelled() -> bool:
    """Return whether the running task was cancelled: a CancelledError may come from elsewhere as well."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def contained(call: Callable[P, T], *args: P.args, **kw: P.kwargs) -> T:
    """Return what `call` returns; for calls in threads whose outcome a coroutine awaits.

    A SystemExit would end the event loop there, and a CancelledError would look like a cancel of the awaiting task. A
    StopIteration cannot be raised there, so that the coroutine would wait for ever.

    Raises:
        InternalError: permanent; for a StopIteration, and whatever `call` raises that is not an Exception.
        Exception: whatever else `call` raises.
    """
    try:
        return call(*args, **kw)
    except BaseException as error:
        if isinstance(error, Exception) and not isinstance(error, StopIteration):
            raise
        log.exception("call_failed")
        raise as_inference_error(error) from error


def _check(task: asyncio.Task[Any]) -> None:
    if not task.cancelled():
        error = task.exception()
    else:
        error = None if task.cancelling() else RuntimeError("a stray CancelledError ended it")
    if error is not None:
        report_fault(error, task.get_name())
