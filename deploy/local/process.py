"""A child process that surely ends with this one, together with all its children."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

_GUARD = Path(__file__).with_name("guard.py")
_STOP_TIMEOUT_S = 10.0


class GuardedProcess:
    """One running program under a guard (see `deploy.local.guard`).

    The guard is in a separate session, so a terminal's Ctrl-C reaches neither it nor the program: the owner of this
    object decides when to stop. The program is killed, so it must survive a crash with its data intact. Methods may
    be called from any thread.
    """

    def __init__(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str],
        directory: Path,
        log_path: Path,
        held_fd: int | None = None,
    ) -> None:
        """Start `argv` (its first item an absolute path) in `directory`, its output appended to `log_path`.

        `held_fd` is an open file that the guard keeps open until the program is gone.

        Raises:
            OSError: permanent; the program cannot be started (the reason is in the log).
        """
        with log_path.open("ab") as log:
            self._guard = subprocess.Popen(
                [sys.executable, "-I", "-S", str(_GUARD), str(-1 if held_fd is None else held_fd), *argv],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=dict(env),
                cwd=directory,
                start_new_session=True,
                pass_fds=() if held_fd is None else (held_fd,),
            )
        assert self._guard.stdout is not None
        with self._guard.stdout as reported:
            pid = reported.readline().strip()
        if not pid:
            self.kill()
            raise OSError(f"{argv[0]} could not be started; {log_path} says why")
        self.pid = int(pid)
        """The program's own pid; its children share its process group."""

    def poll(self) -> int | None:
        """Return the exit status (128 + signal for a killed program), or None while it runs."""
        return self._guard.poll()

    def kill(self) -> None:
        """Kill the program and all of its group, and return when they are gone; harmless when repeated."""
        assert self._guard.stdin is not None
        self._guard.stdin.close()
        try:
            self._guard.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            # Only a guard that was itself stopped (SIGSTOP) or starved comes here; do its work for it.
            os.killpg(self.pid, signal.SIGKILL)
            self._guard.kill()
            self._guard.wait()
