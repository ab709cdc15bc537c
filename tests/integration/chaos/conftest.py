"""A site for workers whose requests sleep as long as they say."""

from __future__ import annotations

from pathlib import Path

import pytest

from deploy.local import LocalStack
from tests.integration.chaos.deliveries import WINDOW
from tests.integration.worker_process import Site


@pytest.fixture
async def site(tmp_path: Path, local_stack: LocalStack, sleepy_model: str) -> Site:
    made = Site(
        tmp_path,
        local_stack.settings(),
        worker={
            "plugins": ["tests.plugins.sleepy"],
            "tasks": ["sleepy", "plain"],
            "max_in_flight": WINDOW,
            "batch_max_items": 1,
        },
    )
    await made.create_topics(["sleepy", "plain"])
    return made
