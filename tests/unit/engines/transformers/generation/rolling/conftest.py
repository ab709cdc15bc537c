"""A tiny language model for each module of tests, and a runner of it for each test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from engines.transformers.generation.runner import TextGenerationRunner
from tests.unit.engines.tiny_models import save_llama
from tests.unit.engines.transformers.generation.rolling.parts import Watched, load


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_llama(tmp_path_factory.mktemp("llama"), chat=False)


@pytest.fixture
def tiny(folder: Path) -> Iterator[tuple[TextGenerationRunner, Watched]]:
    runner, watched = load(folder)
    yield runner, watched
    watched.go_on()
    runner.close()
