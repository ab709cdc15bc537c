"""Transformers' own manager behind our interface: whose tokens rows get, and who pays for faults."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from engines.transformers.batch_generation import OnStep
from engines.transformers.row import Row
from engines.transformers.text_generation import TextGenerationRunner
from handlers.errors import InferenceFailed, InvalidInput
from tests.unit.engines.rolling.parts import PATIENCE_S, alone, load
from tests.unit.engines.tiny_models import save_llama

PROMPTS = ["a b c", "d", "e f g h i j k l m n", "o p", "q r s t u"]
BUDGETS = [20, 3, 12, 30, 7]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_llama(tmp_path_factory.mktemp("llama"), chat=False)


@pytest.fixture
def tiny(folder: Path) -> Iterator[TextGenerationRunner]:
    runner, _ = load(folder, batching="continuous", kv_cache_bytes=2**20)
    yield runner
    runner.close()


def start(runner: TextGenerationRunner, prompt: str, budget: int, **options: Any) -> Future[dict[str, Any]]:
    return runner.submit({"inputs": prompt}, {"max_new_tokens": budget, **options})


def text(answer: Future[dict[str, Any]]) -> str:
    found: str = answer.result(PATIENCE_S)["generated_text"]
    return found


def test_rows_get_the_tokens_they_get_alone(tiny: TextGenerationRunner, folder: Path) -> None:
    answers = [start(tiny, prompt, budget) for prompt, budget in zip(PROMPTS, BUDGETS, strict=True)]
    for prompt, budget, answer in zip(PROMPTS, BUDGETS, answers, strict=True):
        assert text(answer) == alone(folder, prompt, budget)


def test_rows_that_sample_or_search_run_beside_greedy_ones(tiny: TextGenerationRunner, folder: Path) -> None:
    drawn = {"do_sample": True, "seed": 5}
    answers = [start(tiny, "a b c", 8), start(tiny, "a b c", 8, **drawn), start(tiny, "d e", 6, num_beams=2)]
    later = start(tiny, "d e f", 9)
    assert text(answers[0]) == alone(folder, "a b c", 8)
    assert text(later) == alone(folder, "d e f", 9)
    assert text(answers[1]) == text(start(tiny, "a b c", 8, **drawn))
    assert answers[2].result(PATIENCE_S)["completion_tokens"] > 0


def test_a_stop_string_ends_a_row(tiny: TextGenerationRunner, folder: Path) -> None:
    whole = alone(folder, "a b c", 20).split()
    cut = start(tiny, "a b c", 20, stop=[whole[4]])
    assert text(cut).split() == whole[: whole.index(whole[4])]
    assert cut.result()["finish_reason"] == "stop"


def test_a_cancelled_row_costs_its_neighbour_nothing(tiny: TextGenerationRunner, folder: Path) -> None:
    goes, stays = start(tiny, "d e f", 40), start(tiny, "a b c", 30)
    goes.cancel()
    assert text(stays) == alone(folder, "a b c", 30)


def test_a_row_that_ends_the_manager_fails_alone_and_the_next_ones_run(folder: Path) -> None:
    runner, watched = load(folder, batching="continuous", kv_cache_bytes=2**20)
    unknown = runner.tokenizer.unk_token_id
    watched.fault = lambda ids: ValueError("bad token") if (ids == unknown).any() else None
    good = start(runner, "a b c", 30)
    bad = start(runner, "d ?", 4)  # the manager's thread dies of it
    with pytest.raises(InferenceFailed):
        bad.result(PATIENCE_S)
    assert text(good) == alone(folder, "a b c", 30)
    assert text(start(runner, "g h", 4)) == alone(folder, "g h", 4)
    runner.close()


def test_a_row_beyond_the_cache_is_refused_before_it_can_do_harm(folder: Path) -> None:
    runner, _ = load(folder, batching="continuous", kv_cache_bytes=256 * 32)
    with pytest.raises(InvalidInput, match=r"need 43 tokens, transformers\.kv_cache_bytes allows 32"):
        start(runner, "a b c", 40)
    runner.close()


def test_rows_that_a_batch_failed_with_begin_again(
    tiny: TextGenerationRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, entered = threading.Event(), threading.Event()
    generate = tiny._generate

    def failing(rows: Sequence[Row], on_step: OnStep | None = None) -> None:
        entered.set()
        assert gate.wait(PATIENCE_S)
        steps = itertools.count(1)

        def step() -> None:
            assert on_step is not None
            on_step()
            if len(rows) > 1 and next(steps) == 3:
                raise RuntimeError("the third step goes wrong")

        generate(rows, step)

    monkeypatch.setattr(tiny, "_generate", failing)
    drawn = {"do_sample": True, "seed": 5}
    by_itself = start(tiny, "a b c", 8, **drawn)
    assert entered.wait(PATIENCE_S)
    together = [start(tiny, "a b c", 8, **drawn), start(tiny, "a b c", 8, **drawn)]
    gate.set()
    assert [text(answer) for answer in together] == [text(by_itself)] * 2
