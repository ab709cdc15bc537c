"""What a call to a child process may take."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """How many children may work at the same time, and what one call may take."""

    processes: int
    memory_bytes: int
    timeout_s: float
