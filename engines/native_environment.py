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

_M_ARENA_MAX = -8
_FEWEST_ARENAS = 2


def set_torch_defaults() -> None:
    """Set the variables of torch and the tokenizers that are not set yet; call it before they are imported."""
    _set(_OF_TORCH)


def set_native_defaults() -> None:
    """Set all variables, for a process of inferstream; in other processes numpy may have other work."""
    _set(_OF_TORCH | _OF_NUMPY)
    bound_arenas()


def bound_arenas() -> None:
    """Limit the heap to one arena per core, unless the environment says how many; call it before threads start.

    glibc's default is eight per core, and each keeps what its threads have freed.

    Source: https://man7.org/linux/man-pages/man3/mallopt.3.html (M_ARENA_MAX)
    """
    if "MALLOC_ARENA_MAX" in os.environ or "arena_max" in os.environ.get("GLIBC_TUNABLES", ""):
        return
    mallopt = getattr(c_library(), "mallopt", None)
    if mallopt is not None:  # other C libraries have no arenas
        mallopt(_M_ARENA_MAX, max(_FEWEST_ARENAS, len(os.sched_getaffinity(0))))


def c_library() -> ctypes.CDLL:
    """Return the C library that this process runs on."""
    return ctypes.CDLL(None)


def _set(defaults: dict[str, str]) -> None:
    for name, value in defaults.items():
        os.environ.setdefault(name, value)
