"""Where tests run models: on a GPU where this machine has one, else on the CPU."""

from __future__ import annotations

from typing import Any

from engines.config.settings import TransformersSettings


def on_this_machine(**settings: Any) -> TransformersSettings:
    """Return settings for the device at hand; in float32 everywhere, so that results can be compared."""
    import torch

    # Else the convolutions of a GPU round to 10 bits.
    torch.backends.cudnn.conv.fp32_precision = "ieee"  # type: ignore[attr-defined]
    return TransformersSettings(device="auto", **{"torch_dtype": "fp32", "threads": 1, **settings})
