"""An engine and a tiny language model for each module of tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from engines.transformers.engine import TransformersEngine
from tests.device import on_this_machine
from tests.unit.engines.tiny_models import save_llama


@pytest.fixture(scope="module")
def engine() -> TransformersEngine:
    return TransformersEngine(on_this_machine())


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_llama(tmp_path_factory.mktemp("llama"))
