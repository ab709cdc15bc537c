"""What one model's batch of texts may hold: as the settings say, else as was measured on the CPU and on a GPU."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch

from engines.settings import TransformersSettings

_GPU_SHARE = 1 / 20
"""How much of a GPU's memory the cache of one model's texts may take where no setting says otherwise."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Rows, bytes of cache, tokens of prompts between two steps, and the share of those that may be padding.

    A GPU takes about as long for a step of 256 rows as for one of 8, and for 4096 tokens of prompts as for 256: what
    counts is how often it is asked. `docs/decisions/gpu.md` has the figures.
    """

    max_rows: int
    max_bytes: int
    prefill_tokens: int
    padding_share: float = 0.25

    @classmethod
    def of(cls, settings: TransformersSettings, device: torch.device) -> Self:
        """Return what the settings say for a model on `device`."""
        own = _on_gpu(device) if device.type == "cuda" else cls(32, 2**30, 256)
        return cls(
            settings.max_rows or own.max_rows,
            settings.kv_cache_bytes or own.max_bytes,
            settings.prefill_tokens or own.prefill_tokens,
            own.padding_share,
        )


def _on_gpu(device: torch.device) -> Limits:
    memory = torch.cuda.get_device_properties(device).total_memory
    return Limits(256, max(2**30, int(memory * _GPU_SHARE)), 4096, padding_share=0.9)
