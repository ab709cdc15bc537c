"""Lets the process end with its own status while threads that nobody can end run native code.

When the interpreter ends, it ends such a thread as it next asks for the interpreter: that unwinds the frames of C++
beneath it, which the C++ library takes for an error that nobody handles, and aborts the process.
"""

from __future__ import annotations

import atexit
import ctypes
import signal
import threading

from engines.native_environment import c_library

native_threads: set[int] = set()
"""The idents of the threads that run native code now, or may."""

_LONGEST_S = 60
"""How long the interpreter may then take to end: a thread that stands still may keep a lock of the C library."""


@atexit.register
def _hold_native_threads() -> None:
    """Make those threads stand still where they are; what follows the end of the interpreter is left out."""
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
    library.on_exit(
        library._exit, None
    )  # which is given the status: no destructors of C++ beside those threads
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(_LONGEST_S)
