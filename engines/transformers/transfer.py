"""Inputs brought to where their model lies: floats in its number format, through pinned memory where that is a GPU."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch


def to_model(model: torch.nn.Module, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return `inputs` on the model's device; what is no tensor, and numbers that are no floats, stay what they are.

    `model` tells its `device` and `dtype`, as those of transformers do. A copy to a GPU is under way when this
    returns: whatever that GPU does next waits for it, and this thread does not.
    """
    return {
        name: _moved(value, model.device, model.dtype) if isinstance(value, torch.Tensor) else value
        for name, value in inputs.items()
    }


def _moved(tensor: torch.Tensor, device: Any, dtype: Any) -> torch.Tensor:
    # Converted first: it halves what has to be copied.
    kept = dtype if tensor.is_floating_point() else tensor.dtype
    if device.type != "cuda" or tensor.device.type != "cpu":
        return tensor.to(kept).to(device)
    pinned = torch.empty(tensor.shape, dtype=kept, pin_memory=True)
    pinned.copy_(tensor)  # converts on the way: one pass over the numbers
    return pinned.to(device, non_blocking=True)
