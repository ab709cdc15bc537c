"""Lets the process end with its own exit status while threads run native code that cannot be interrupted.

When the interpreter ends, it ends such a thread at its next call into Python. That unwinds C++ frames, which the C++
library treats as an unhandled error: it aborts the process.
"""

from __future__ import annotations

import atexit
import ctypes
import signal
import threading

from engines.native_environment import c_library

native_threads: set[int] = set()
"""The idents of threads that run native code now, or may."""

_LONGEST_S = 60
"""Longest time for the interpreter to end: a stopped thread may hold a lock of the C library."""


@atexit.register
def _hold_native_threads() -> None:
    """Stop those threads where they are; what follows the end of the interpreter is skipped."""
    threads = [thread.ident for thread in threading.enumerate() if thread.ident in native_threads]
    library = c_library()
    if not threads or not hasattr(library, "on_exit"):  # other C libraries
        return
    library.fflush(None)
    library.signal.argtypes = (ctypes.c_int, ctypes.c_void_p)
    library.signal(signal.SIGRTMAX, ctypes.cast(library.pause, ctypes.c_void_p))
    for thread in threads:
        if thread is not None:
            signal.pthread_kill(thread, signal.SIGRTMAX)
    library.on_exit(library._exit, None)  # with its status: no C++ destructors run beside those threads
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(_LONGEST_S)
