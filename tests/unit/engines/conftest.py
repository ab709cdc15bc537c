"""Swaps and guards to be tested, closed in the end, and what hangs until then."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from engines.guard import Guard
from tests.unit.engines.version_stage import Stage


@pytest.fixture
def make_stage(tmp_path: Path) -> Iterator[Callable[..., Stage]]:
    made: list[Stage] = []

    def stage(**settings: Any) -> Stage:
        made.append(Stage(tmp_path, **settings))
        return made[-1]

    yield stage
    for one in made:
        one.versions.close()


@pytest.fixture
def stage(make_stage: Callable[..., Stage]) -> Stage:
    return make_stage()


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """What a call waits for that hangs; open at the end."""
    event = threading.Event()
    yield event
    event.set()


@pytest.fixture
def guard() -> Iterator[Guard]:
    made = Guard()
    yield made
    made.close()
