"""Settings of native libraries: environment variables for numpy, torch and tokenizers, a call for the C library's
heap."""

from __future__ import annotations

import ctypes
import os

_OF_TORCH = {
    # Spinning threads on shared cores cost ten times the time.
    "OMP_WAIT_POLICY": "PASSIVE",
    "TOKENIZERS_PARALLELISM": "false",
    # Compiled kernels of unloaded models stay, nearly a megabyte each; torch keeps up to two thousand.
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "512",
    "LRU_CACHE_CAPACITY": "512",
}
_OF_NUMPY = {
    # Media are decoded in several threads already; threads of numpy would mostly spin.
    "OPENBLAS_NUM_THREADS": "1",
}

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
_FEWEST_ARENAS = 2
_MMAP_BYTES = 32 * 1024**2
"""The most that glibc allows."""
_TRIM_BYTES = 4 * _MMAP_BYTES


def set_torch_defaults() -> None:
    """Set the variables of torch and the tokenizers that are not set yet; call it before they are imported."""
    _set(_OF_TORCH)


def set_native_defaults() -> None:
    """Set all variables, for a process of inferstream; in other processes numpy may have other work."""
    _set(_OF_TORCH | _OF_NUMPY)
    bound_heap()


def bound_heap() -> None:
    """Limit the heap to one arena per core, and let it keep what a batch frees for the next one; call it before threads
    start. What the environment says comes first.

    glibc's default is eight arenas per core, and each keeps what its threads have freed. By default it also returns
    large blocks to the system at once: the kernel then clears each page again for every batch. `HeapTrimmer` returns
    them when the process is idle.

    Source: https://man7.org/linux/man-pages/man3/mallopt.3.html
    """
    mallopt = getattr(c_library(), "mallopt", None)
    if mallopt is None:  # other C libraries have no arenas
        return
    cores = len(os.sched_getaffinity(0))
    for number, name, value in (
        (_M_ARENA_MAX, "ARENA_MAX", max(_FEWEST_ARENAS, cores)),
        (_M_MMAP_THRESHOLD, "MMAP_THRESHOLD_", _MMAP_BYTES),
        (_M_TRIM_THRESHOLD, "TRIM_THRESHOLD_", _TRIM_BYTES),
    ):
        tunable = f"malloc.{name.rstrip('_').lower()}"
        if f"MALLOC_{name}" not in os.environ and tunable not in os.environ.get("GLIBC_TUNABLES", ""):
            mallopt(number, value)


def c_library() -> ctypes.CDLL:
    """Return the C library that this process runs on."""
    return ctypes.CDLL(None)


def _set(defaults: dict[str, str]) -> None:
    for name, value in defaults.items():
        os.environ.setdefault(name, value)
