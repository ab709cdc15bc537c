"""What the native libraries under numpy, torch and the tokenizers read once from the environment, on their import."""

from __future__ import annotations

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


def set_torch_defaults() -> None:
    """Set what torch and the tokenizers should read, where it is not set yet; of use before they are imported."""
    _set(_OF_TORCH)


def set_native_defaults() -> None:
    """Set all that suits a process of ours; in somebody else's, numpy may have other work than ours."""
    _set(_OF_TORCH | _OF_NUMPY)


def _set(defaults: dict[str, str]) -> None:
    for name, value in defaults.items():
        os.environ.setdefault(name, value)
