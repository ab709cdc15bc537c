"""What native libraries are told once, before they are used: numpy's, torch's and the tokenizers' by the environment,
the C library's heap by a call."""

from __future__ import annotations

import ctypes
import os

_OF_TORCH = {
    # Spinning threads on shared cores cost ten times the time.
    "OMP_WAIT_POLICY": "PASSIVE",
    "TOKENIZERS_PARALLELISM": "false",
    # Kernels compiled for models of the past stay, of nearly a megabyte each; torch's own bound is a thousand, twice.
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "512",
    "LRU_CACHE_CAPACITY": "512",
}
_OF_NUMPY = {
    # Media are decoded side by side in threads as it is; what numpy's own would add is mostly spinning.
    "OPENBLAS_NUM_THREADS": "1",
}

_M_ARENA_MAX = -8
_FEWEST_ARENAS = 2


def set_torch_defaults() -> None:
    """Set what torch and the tokenizers should read, where it is not set yet; of use before they are imported."""
    _set(_OF_TORCH)


def set_native_defaults() -> None:
    """Set all that suits a process of ours; in somebody else's, numpy may have other work than ours."""
    _set(_OF_TORCH | _OF_NUMPY)
    bound_arenas()


def bound_arenas() -> None:
    """Have one arena of the heap for each core, unless the environment says how many; call it before threads start.

    Left alone, glibc makes eight for each core, and each keeps what its threads have freed.

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
