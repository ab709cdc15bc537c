"""Models that nobody has loaded yet, all asked at the same moment."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from engines.inference import InferenceManager
from tests.contract.bench import assert_answered, manager_of
from tests.contract.cases import CASES

ROUNDS = 2
LOADED_HERE = [case for case in CASES if case.engine == "transformers"]


@pytest.fixture
def cold_manager(tmp_path: Path) -> Iterator[InferenceManager]:
    manager = manager_of(LOADED_HERE, tmp_path, ollama_url="http://localhost:9")
    yield manager
    manager.close()


def test_cold_models_asked_at_once_all_answer_right(cold_manager: InferenceManager) -> None:
    with ThreadPoolExecutor(len(LOADED_HERE)) as threads:
        for _ in range(ROUNDS):
            asked = [threads.submit(cold_manager.infer, **case.request()) for case in LOADED_HERE]
            for case, future in zip(LOADED_HERE, asked, strict=True):
                assert_answered(case, future.result())
            cold_manager.clear_cache()
            assert cold_manager.get_cached_models() == []
