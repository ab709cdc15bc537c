"""Synthetic clips of a square that moves across a plain ground, or stays where it is."""

from __future__ import annotations

import random

import numpy as np
from numpy.typing import NDArray

DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1), "still": (0, 0)}
"""What the square does -> its direction (x, y); y grows downwards."""

TRAINING_SEED, HELD_OUT_SEED = 0, 1_000_003


def moving_square(direction: str, rng: random.Random, *, frames: int = 8, size: int = 64) -> NDArray[np.uint8]:
    """Return a clip (frames, size, size, 3) of one square, with everything else about it drawn from `rng`."""
    dx, dy = DIRECTIONS[direction]
    side = rng.uniform(0.15, 0.3) * size
    way = rng.uniform(0.25, 0.6) * size
    room = size - side
    x = rng.uniform(0, room - way * abs(dx)) + (way if dx < 0 else 0)
    y = rng.uniform(0, room - way * abs(dy)) + (way if dy < 0 else 0)
    bright = [rng.randint(120, 255) for _ in range(3)]
    clip = np.empty((frames, size, size, 3), np.uint8)
    clip[:] = [rng.randint(0, 70) for _ in range(3)]
    for index, frame in enumerate(clip):
        done = index / max(1, frames - 1) * way
        left, top = round(x + dx * done), round(y + dy * done)
        frame[top : top + round(side), left : left + round(side)] = bright
    return clip
