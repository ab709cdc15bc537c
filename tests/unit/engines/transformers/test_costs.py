"""What inputs cost, and what a batch of each task may."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from PIL import Image

from engines.transformers.engine import TransformersEngine
from engines.transformers.memory_limits import cost_of
from engines.transformers.runner import RUNNERS

SOUND = {"audio": np.zeros(32_000, np.float32), "sampling_rate": 16_000}


@pytest.mark.parametrize(
    ("inputs", "cost"),
    [
        (SOUND, 2.0),
        ({"image": Image.new("RGB", (200, 100))}, 20_000.0),
        ({"frames": np.zeros((8, 4, 4, 3), np.uint8)}, 8.0),
        ({"pages": [{}, {}, {}]}, 3.0),
        ({"inputs": "a text"}, 1.0),
    ],
    ids=["sound", "image", "video", "document", "text"],
)
def test_inputs_cost_what_decides_their_memory(inputs: dict[str, Any], cost: float) -> None:
    assert cost_of(inputs) == cost


def test_a_short_recording_costs_the_window_that_is_heard_of_it_in_asr_only() -> None:
    assert TransformersEngine().cost("asr", SOUND, {}) == 30.0
    assert TransformersEngine().cost("audio-classification", SOUND, {}) == 2.0


def test_every_task_that_runs_in_batches_has_a_limit() -> None:
    batched = set(RUNNERS) - TransformersEngine.continuous_tasks
    limits = {task: TransformersEngine().max_cost(task) for task in batched}
    assert all(0 < limit < math.inf for limit in limits.values()), limits
