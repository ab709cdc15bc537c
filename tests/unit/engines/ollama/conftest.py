"""A fake server and an engine that asks it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from engines.config.settings import OllamaSettings
from engines.ollama.engine import OllamaEngine
from tests.unit.engines.ollama.fake_ollama import FakeOllama


@pytest.fixture
def fake() -> Iterator[FakeOllama]:
    with FakeOllama() as server:
        yield server


@pytest.fixture
def engine(fake: FakeOllama) -> Iterator[OllamaEngine]:
    engine = OllamaEngine(OllamaSettings(api_base=fake.url, timeout_s=30, max_concurrent=3))
    yield engine
    engine.close()


@pytest.fixture
def model(engine: OllamaEngine) -> Any:
    return engine.load_model("echo", task="text-generation")
