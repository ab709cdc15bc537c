"""Looks at processes of this machine, for tests that kill and must leave nothing behind."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

import psutil


def is_running(pid: int) -> bool:
    """Return whether the process still runs; one that is dead but not yet reaped does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def family(pid: int) -> set[int]:
    """Return the process and everything below it."""
    process = psutil.Process(pid)
    return {pid, *(child.pid for child in process.children(recursive=True))}


def living_in(folder: Path) -> set[int]:
    """Return the processes whose working folder is `folder` or below it."""
    found = set()
    for process in psutil.process_iter():
        try:
            if Path(process.cwd()).is_relative_to(folder):
                found.add(process.pid)
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
    return found


def wait_until(is_so: Callable[[], bool], *, timeout_s: float = 20.0) -> bool:
    """Return True as soon as `is_so()` holds, or False when it still does not after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while not is_so():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def freeze(pid: int) -> None:
    """Send SIGSTOP to a process and return when all of its threads stand still.

    The signal comes to one of them, which stops the others when it runs next: on a busy machine they may work on until
    then.
    """
    os.kill(pid, signal.SIGSTOP)
    assert wait_until(lambda: _states(pid) <= {"T", "Z", "X"}), f"process {pid} does not stop: {_states(pid)}"


def _states(pid: int) -> set[str]:
    """Return the states of the threads of a process, as ps calls them."""
    found = set()
    for stat in Path(f"/proc/{pid}/task").glob("*/stat"):
        with suppress(FileNotFoundError, ProcessLookupError):  # the thread has ended
            found.add(stat.read_text().rpartition(")")[2].split()[0])
    return found


def all_gone(pids: Iterable[int], *, timeout_s: float = 20.0) -> bool:
    """Return whether every process has ended within `timeout_s`."""
    watched = list(pids)
    return wait_until(lambda: not any(is_running(pid) for pid in watched), timeout_s=timeout_s)
