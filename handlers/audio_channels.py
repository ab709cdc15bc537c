"""Several channels as one, so that nothing that is heard in the room is lost in the sum."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_CANCELLED = 0.25
"""Of the energy that channels have in their mean if they have nothing in common, what is left of channels that
oppose each other: below, one of them was wired the wrong way round."""


def mixed(samples: NDArray[Any]) -> NDArray[np.float32]:
    """Return (samples, channels) as (samples,): the mean, or the loudest channel where channels cancel each other."""
    count = samples.shape[1]
    if count == 1:
        return samples[:, 0].astype(np.float32, copy=False)
    mean: NDArray[np.float32] = samples.mean(axis=1, dtype=np.float32)
    energies = np.einsum("sc,sc->c", samples, samples, dtype=np.float64)
    left = float(np.dot(mean.astype(np.float64), mean))
    if left < _CANCELLED * energies.sum() / count / count:
        return samples[:, int(energies.argmax())].astype(np.float32)
    return mean
