"""What tests of batches share."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from engines.run.job import Job, Outcome
from streams.pipeline.batcher import Batcher
from tests.unit.streams.pipeline.batching_rig import Make, all_at_once


@pytest.fixture
async def make() -> AsyncIterator[Make]:
    batchers: list[Batcher] = []
    with ThreadPoolExecutor(4) as pool:

        def build(execute: Callable[[Sequence[Job]], Sequence[Outcome]], **options: Any) -> Batcher:
            asked = {"max_items": 4, "max_wait_s": 0.01} | options
            batcher = Batcher(all_at_once(execute), threads=lambda _: pool, **asked)
            batchers.append(batcher)
            return batcher

        yield build
        for batcher in batchers:
            await batcher.close()
