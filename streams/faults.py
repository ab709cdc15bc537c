"""What goes wrong in the process itself, not in a request: it is told to the event loop, and ends the process."""

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
    """Return `task`; should it end with an error, or as cancelled where nobody cancelled it, that is a fault.

    For tasks that nobody awaits, without which requests would wait for ever.
    """
    task.add_done_callback(_check)
    return task


def report_fault(error: BaseException, where: str) -> None:
    """Tell the running event loop of a fault of this process; `where` names what broke off."""
    asyncio.get_running_loop().call_exception_handler({"message": where, "exception": error, _IS_FAULT: True})


def tell_of_faults(fail: Callable[[BaseException], None]) -> None:
    """Have `fail` called with every fault of the running event loop; without this call they are only logged."""

    def on_error(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if not context.get(_IS_FAULT):
            loop.default_exception_handler(context)
            return
        error = context["exception"]
        log.critical("process_fault", where=context["message"], exc_info=error)
        fail(error)

    asyncio.get_running_loop().set_exception_handler(on_error)


def was_cancelled() -> bool:
    """Return whether somebody cancelled the running task: a CancelledError may come from elsewhere as well."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def contained(call: Callable[P, T], *args: P.args, **kw: P.kwargs) -> T:
    """Return what `call` returns; for calls in threads whose outcome a coroutine awaits.

    There a SystemExit would end the event loop, and a CancelledError seem to cancel the awaiting task.

    Raises:
        InternalError: permanent; for whatever `call` raises that is not an Exception.
        Exception: whatever else `call` raises.
    """
    try:
        return call(*args, **kw)
    except Exception:
        raise
    except BaseException as error:
        log.exception("call_failed")
        raise as_inference_error(error) from error


def _check(task: asyncio.Task[Any]) -> None:
    if not task.cancelled():
        error = task.exception()
    elif not task.cancelling():
        error = RuntimeError("a CancelledError that nobody had sent ended it")
    else:
        error = None
    if error is not None:
        report_fault(error, task.get_name())
