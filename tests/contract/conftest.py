"""One manager for all rows of the table, so that each model is loaded once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from engines.inference import InferenceManager
from tests.contract.bench import manager_of
from tests.contract.cases import CASES
from tests.unit.engines.ollama.fake_models import FakeModel
from tests.unit.engines.ollama.fake_ollama import FakeOllama


@pytest.fixture(scope="session")
def fake_ollama() -> Iterator[FakeOllama]:
    """A server with `echo`, which repeats what it is told, and `eyes`, which says what it sees."""
    models = {"echo": FakeModel(), "eyes": FakeModel(("completion", "vision"))}
    with FakeOllama(models=models) as server:
        yield server


@pytest.fixture(scope="session")
def manager(fake_ollama: FakeOllama, tmp_path_factory: pytest.TempPathFactory) -> Iterator[InferenceManager]:
    """A manager that answers every case, shared: leave it as it is."""
    manager = manager_of(CASES, tmp_path_factory.mktemp("contract"), ollama_url=fake_ollama.url)
    yield manager
    manager.close()
