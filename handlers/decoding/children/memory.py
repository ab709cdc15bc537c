"""The memory of a process, in RAM and private as the limit of a child counts it; known on Linux only."""

from __future__ import annotations

import ctypes
import resource
from pathlib import Path

_A_LITTLE = 1 << 20
"""With less than this left, allocators get nothing more from the system."""

_malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
"""Looked up once: a process at its limit may not even get the memory for that."""

_RESIDENT, _DATA = 1, 5
"""Fields in /proc/<pid>/statm: pages in RAM, and those that RLIMIT_DATA counts. Source: man 5 proc_pid_statm."""


def private_bytes(pid: int | str = "self") -> int:
    """Return the private memory of a process, used or not; 0 where it is not known."""
    return _statm(pid, _DATA)


def resident_bytes() -> int:
    """Return the memory of this process that is in RAM; 0 where it is not known."""
    return _statm("self", _RESIDENT)


def _statm(pid: int | str, field: int) -> int:
    try:
        pages = Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[field]
    except OSError:
        return 0
    return int(pages) * resource.getpagesize()


def is_at_its_limit(pid: int) -> bool:
    """Tell whether a process has all the private memory that it may have."""
    try:
        limit, _ = resource.prlimit(pid, resource.RLIMIT_DATA)
    except (OSError, AttributeError):  # it has ended, or the system has no such call
        return False
    return limit != resource.RLIM_INFINITY and private_bytes(pid) > limit - _A_LITTLE


def trim() -> None:
    """Return freed memory of this process to the system, where its allocator can; takes up to some tenths of a second.

    Source: https://man7.org/linux/man-pages/man3/malloc_trim.3.html
    """
    if _malloc_trim is not None:
        _malloc_trim(0)
