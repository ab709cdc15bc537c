"""What the native libraries under numpy, torch and the tokenizers read once from the environment, on their import."""

from __future__ import annotations

import os

_DEFAULTS = {
    # Spinning threads on shared cores cost ten times the time.
    "OMP_WAIT_POLICY": "PASSIVE",
    # Media are decoded side by side in threads as it is; what numpy's own would add is mostly spinning.
    "OPENBLAS_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    # Kernels compiled for models of the past stay, of nearly a megabyte each; torch's own bound is a thousand, twice.
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "512",
    "LRU_CACHE_CAPACITY": "512",
}


def set_native_defaults() -> None:
    """Set what suits a worker and is not set yet; of use before numpy and torch are first imported."""
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)
