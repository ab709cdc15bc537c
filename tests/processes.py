"""Looks at processes of this machine, for tests that kill and must leave nothing behind."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
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


def all_gone(pids: Iterable[int], *, timeout_s: float = 20.0) -> bool:
    """Return whether every process has ended within `timeout_s`."""
    watched = list(pids)
    return wait_until(lambda: not any(is_running(pid) for pid in watched), timeout_s=timeout_s)
