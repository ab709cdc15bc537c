"""How many bytes of models may lie where: one limit for RAM, one for each GPU."""

from __future__ import annotations

import sys
from collections.abc import Callable

import structlog

log = structlog.get_logger(__name__)

GPU_SHARE = 0.9
"""The share of a GPU's memory that models may take where no setting says otherwise; the rest is for running."""


def gpu_bytes(device: str) -> int:
    """Return the memory of a CUDA device such as `cuda:0`, in bytes; only for devices that hold a model."""
    import torch

    return int(torch.cuda.get_device_properties(torch.device(device)).total_memory)


class MemoryBudget:
    """The most bytes of models on each device; asks a GPU for its size when a model first lies there."""

    def __init__(
        self, max_bytes: int, max_gpu_bytes: int | None = None, size_of: Callable[[str], int] = gpu_bytes
    ) -> None:
        self._max_bytes = max_bytes
        self._max_gpu_bytes = max_gpu_bytes
        self._size_of = size_of
        self._limits: dict[str, int] = {}

    @staticmethod
    def place(device: str) -> str:
        """Return what `device` counts as: the GPU by its number, else `cpu`, as other devices share the RAM."""
        if device == "cuda":
            return "cuda:0"
        return device if device.startswith("cuda:") else "cpu"

    def limit(self, place: str) -> int:
        """Return the most bytes of models at `place`."""
        if place == "cpu":
            return self._max_bytes
        if self._max_gpu_bytes is not None:
            return self._max_gpu_bytes
        if place not in self._limits:
            self._limits[place] = self._share_of(place)
        return self._limits[place]

    def _share_of(self, place: str) -> int:
        try:
            return int(self._size_of(place) * GPU_SHARE)
        except Exception:
            # An engine may run on a GPU that torch does not see, or without torch: then only the count bounds it.
            log.warning("gpu_memory_unknown", device=place, way_out="set cache.max_gpu_bytes", exc_info=True)
            return sys.maxsize
