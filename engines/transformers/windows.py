"""Long recordings cut into windows a model can hear at once: in pauses, or so that they overlap."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_HOP_S = 0.02
"""Resolution of the search for a pause."""

_PAUSE_S = 0.3
"""Length of the pause that is looked for."""

_SEARCH_S = 8.0
"""How far before the longest possible border a pause is looked for."""


@dataclass(frozen=True, slots=True)
class OverlappingWindow:
    """Samples `start` to `end`; of what is heard, the first `left` and the last `right` samples do not count."""

    start: int
    end: int
    left: int
    right: int

    def frames(self, count: int) -> slice:
        """Return which of the `count` frames heard in the whole window count."""
        length = self.end - self.start
        return slice(round(self.left / length * count), count - round(self.right / length * count))


def split_with_overlap(length: int, *, window: int, stride: int) -> list[OverlappingWindow]:
    """Return windows of at most `window` samples whose counting parts cover `length` samples without a gap.

    Each but the first and the last hears `stride` samples of its neighbours on either side.
    """
    windows = []
    for start in range(0, max(length, 1), window - 2 * stride):
        end = min(start + window, length)
        is_last = end == length
        windows.append(OverlappingWindow(start, end, stride if start else 0, 0 if is_last else stride))
        if is_last:
            break
    return windows


def split_at_pauses(samples: NDArray[np.float32], *, rate: int, window_s: float) -> list[tuple[int, int]]:
    """Return (start, end) sample indices of windows of at most `window_s` that cover `samples` without overlap.

    Each border lies in the quietest stretch before the latest place it could be at.
    """
    longest = int(window_s * rate)
    borders = [0]
    while len(samples) - borders[-1] > longest:
        latest = borders[-1] + longest
        earliest = latest - int(min(_SEARCH_S, window_s / 2) * rate)
        borders.append(earliest + _quietest(samples[earliest:latest], rate))
    return list(zip(borders, [*borders[1:], len(samples)], strict=True))


def _quietest(samples: NDArray[np.float32], rate: int) -> int:
    """Return the middle of the quietest pause-long stretch; of equally quiet ones, the last."""
    hop = int(_HOP_S * rate)
    frames = samples[: len(samples) // hop * hop].reshape(-1, hop).astype(np.float64)
    energy = np.convolve((frames**2).mean(axis=1), np.ones(round(_PAUSE_S / _HOP_S)), mode="valid")
    last_quietest = len(energy) - 1 - int(np.argmin(energy[::-1]))
    return int((last_quietest + _PAUSE_S / _HOP_S / 2) * hop)
