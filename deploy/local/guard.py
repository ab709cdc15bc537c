"""Runs one server and never outlives its parent: a separate script, started by `deploy.local.process`.

    python -I -S guard.py HELD_FD PROGRAM ARGUMENT...

The parent holds the other end of this process's standard input. When that closes (an orderly stop, or the
parent's death by any cause) the whole process group of the server is killed. Standard output carries one
line, the server's pid; standard error is the log, which the server shares. HELD_FD (-1 for none) is an open
file kept until the server is gone, such as the lock on the data folder. The exit status is the server's.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys

_CHECK_INTERVAL_S = 0.2


def _spawn(argv: list[str]) -> int:
    """Start the server in its own process group and return its pid (which is also the group's id)."""
    return os.posix_spawn(
        argv[0],
        argv,
        os.environ,
        file_actions=[(os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0), (os.POSIX_SPAWN_DUP2, 2, 1)],
        setpgroup=0,
        # Python ignores these two; a server must start with the default handling.
        setsigdef=[signal.SIGPIPE, signal.SIGXFSZ],
    )


def _wait_for_an_end(server: int, parent: int) -> None:
    """Return when the server has exited, the parent closed the pipe, or the parent is gone."""
    # WNOWAIT leaves the dead leader unreaped, so that its group id cannot be given to someone else before the rest of
    # the group is killed.
    while os.waitid(os.P_PID, server, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        closed, _, _ = select.select([0], [], [], _CHECK_INTERVAL_S)
        # A process that the parent forked may hold the pipe open after the parent's death: look at the parent
        # too, which is replaced as soon as it dies.
        if (closed and not os.read(0, 1024)) or os.getppid() != parent:
            return


def main() -> int:
    parent = os.getppid()
    held, argv = int(sys.argv[1]), sys.argv[2:]
    if held >= 0:
        os.set_inheritable(held, False)
    for name in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(name, lambda number, _frame: sys.exit(128 + number))
    server = _spawn(argv)
    try:
        os.write(1, f"{server}\n".encode())
        os.close(1)
        _wait_for_an_end(server, parent)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server, signal.SIGKILL)
        _, status = os.waitpid(server, 0)
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main())
