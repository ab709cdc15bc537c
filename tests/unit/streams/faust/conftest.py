"""A stream that follows one topic on our consumer."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.unit.streams.faust.consumer_rig import Rig


@pytest.fixture
async def rig() -> Any:
    made = Rig()
    task = await made.following()
    yield made
    task.cancel()
    await asyncio.wait([task])
