"""The limits of models in memory: a number, bytes of RAM, and bytes of each GPU."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Callable, Collection, Hashable
from pathlib import Path

from engines.cache.cached_model import Entry
from handlers.errors import ModelLoadFailed
from handlers.logger import get_logger

log = get_logger(__name__)

GPU_SHARE = 0.9
"""The share of a GPU's memory for models where no setting says otherwise; the rest is for running them."""


RAM_SHARE = 0.5
"""The share of the machine's memory for models; requests, their media and everything else need the rest."""

_CGROUPS = Path("/sys/fs/cgroup")


def ram_bytes(cgroups: Path = _CGROUPS) -> int:
    """Return the memory that this process may use: the machine's, or the limit of its container.

    Source: https://docs.kernel.org/admin-guide/cgroup-v2.html (memory.max); v1 has memory.limit_in_bytes
    """
    found = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for limit in (cgroups / "memory.max", cgroups / "memory" / "memory.limit_in_bytes"):
        try:
            found.append(int(limit.read_text()))
        except (OSError, ValueError):  # no such file, or the word max
            continue
    return min(found)


def gpu_bytes(device: str) -> int:
    """Return the memory of a CUDA device such as `cuda:0`, in bytes; only for devices that hold a model."""
    import torch

    return int(torch.cuda.get_device_properties(torch.device(device)).total_memory)


class MemoryBudget:
    """The limits of each device; asks a GPU for its size when the first model is loaded there."""

    def __init__(
        self,
        max_bytes: int | None,
        max_gpu_bytes: int | None = None,
        size_of: Callable[[str], int] = gpu_bytes,
    ) -> None:
        self._max_bytes = int(ram_bytes() * RAM_SHARE) if max_bytes is None else max_bytes
        self._max_gpu_bytes = max_gpu_bytes
        self._size_of = size_of
        self._limits: dict[str, int] = {}

    @staticmethod
    def place(device: str) -> str:
        """Return what `device` counts as: a GPU by its number, else `cpu`, as other devices share the RAM."""
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
            try:
                self._limits[place] = int(self._size_of(place) * GPU_SHARE)
            except Exception:
                # An engine may run on a GPU that torch does not see, or without torch: then only the number of models
                # is limited.
                log.warning("gpu_memory_unknown", device=place, way_out="set cache.max_gpu_bytes", exc_info=True)
                self._limits[place] = sys.maxsize
        return self._limits[place]

    def check(self, key: Hashable, size: int, device: str) -> None:
        """Refuse a model of `size` bytes on `device` that would not fit even alone.

        Raises:
            ModelLoadFailed: permanent; it takes more than the limit.
        """
        place = self.place(device)
        if size > self.limit(place):
            setting, where = ("max_bytes", "of RAM") if place == "cpu" else ("max_gpu_bytes", f"on {place}")
            raise ModelLoadFailed(
                f"model {key} takes {size} bytes {where}; cache.{setting} allows {self.limit(place)} for all "
                f"models together: raise cache.{setting} if there is as much memory, or name a smaller model"
            )

    def excess(self, entries: Collection[Entry], max_models: int | None) -> tuple[list[Entry], bool]:
        """Return the idle `entries` to evict for the limits of bytes and `max_models`, the first ones first, and
        whether the limits are exceeded even without them. Entries that share their bytes are evicted as one model, by
        its last use."""
        most = sys.maxsize if max_models is None else max_models
        models: dict[Hashable, list[Entry]] = {}
        for entry in entries:
            if entry.counts:
                models[entry.memory] = [*models.pop(entry.memory, ()), entry]
        count, size = len(models), self.taken([entry for sharers in models.values() for entry in sharers])
        excess: list[Entry] = []
        for sharers in models.values():
            place = self.place(sharers[-1].device)
            is_too_much = count > most or size[place] > self.limit(place)
            if is_too_much and all(entry.is_idle for entry in sharers):
                excess += sharers
                count -= 1
                size[place] -= sharers[-1].bytes
        is_exceeded = count > most or any(taken > self.limit(place) for place, taken in size.items())
        return excess, is_exceeded

    def beside(self, entry: Entry, others: Collection[Entry]) -> list[Entry]:
        """Return those of `others` on the device of `entry`, whose memory it could use; of any device where its own is
        not known yet, never of another server."""
        places = {self.place(other.device) for other in (others if not entry.device else [entry])}
        return [
            other for other in others if other is not entry and other.bytes > 0 and self.place(other.device) in places
        ]

    def is_full(self, device: str, entries: Collection[Entry]) -> bool:
        """Return whether `entries`, including those being unloaded, exceed the limit of `device`."""
        place = self.place(device)
        return self.taken(entries)[place] > self.limit(place)

    def taken(self, entries: Collection[Entry]) -> Counter[str]:
        """Return the bytes of `entries` on each device; shared bytes count once."""
        size = Counter[str]()
        for entry in {one.memory: one for one in entries}.values():
            size[self.place(entry.device)] += entry.bytes
        return size
