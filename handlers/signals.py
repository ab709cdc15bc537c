"""Distinguishes exceptions raised by a signal to this process, such as Ctrl-C, from those of other code."""

from __future__ import annotations

import functools
import signal
import threading
import traceback
from types import CodeType
from typing import Any


def is_of_a_signal(error: BaseException) -> bool:
    """Return whether a signal raised `error`, which is being handled in this thread, to end what the process does.

    An Exception never counts: it is the failure of whatever was under way. Python runs signal handlers only in the
    main thread. Its own handler of SIGINT leaves no trace, so where that is installed every KeyboardInterrupt of the
    main thread counts as Ctrl-C.
    """
    if isinstance(error, Exception) or threading.current_thread() is not threading.main_thread():
        return False
    handlers = [signal.getsignal(number) for number in signal.valid_signals()]
    if isinstance(error, KeyboardInterrupt) and signal.default_int_handler in handlers:
        return True
    codes = {code for code in map(_code_of, handlers) if code is not None}
    return any(frame.f_code in codes for frame, _ in traceback.walk_tb(error.__traceback__))


def _code_of(handler: Any) -> CodeType | None:
    """Return the code of a signal handler in Python: a function, method, partial or callable object."""
    while isinstance(handler, functools.partial):
        handler = handler.func
    if not callable(handler):
        return None
    code = getattr(handler, "__code__", None) or getattr(type(handler).__call__, "__code__", None)
    return code if isinstance(code, CodeType) else None
