"""The private memory of a process, as the limit of a child counts it; known on Linux only."""

from __future__ import annotations

import resource
from pathlib import Path

_A_LITTLE = 1 << 20
"""With less than this left, allocators get nothing more from the system."""

_DATA = 5
"""The field in /proc/<pid>/statm of the pages that RLIMIT_DATA counts. Source: man 5 proc_pid_statm."""


def private_bytes(pid: int | str = "self") -> int:
    """Return the private memory of a process, used or not; 0 where it is not known."""
    try:
        pages = Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[_DATA]
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
