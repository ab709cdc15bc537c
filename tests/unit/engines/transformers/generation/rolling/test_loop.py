"""Requests that join and leave one running batch get the tokens that they get alone."""

from __future__ import annotations

from concurrent.futures import wait
from itertools import pairwise
from pathlib import Path

from engines.transformers.generation.runner import TextGenerationRunner
from tests.unit.engines.transformers.generation.rolling.parts import (
    BUDGETS,
    PATIENCE_S,
    PROMPTS,
    Watched,
    alone,
    load,
    start,
    text,
)


def test_rows_of_all_lengths_get_the_tokens_they_get_alone(
    tiny: tuple[TextGenerationRunner, Watched], folder: Path
) -> None:
    runner, _ = tiny
    answers = [start(runner, prompt, budget) for prompt, budget in zip(PROMPTS, BUDGETS, strict=True)]
    for prompt, budget, answer in zip(PROMPTS, BUDGETS, answers, strict=True):
        assert text(answer) == alone(folder, prompt, budget)


def test_a_row_that_comes_later_joins_the_running_batch_and_a_short_one_leaves_it_first(
    tiny: tuple[TextGenerationRunner, Watched], folder: Path
) -> None:
    runner, watched = tiny
    watched.hold()
    long = start(runner, "a b c", 40)
    for _ in range(3):
        watched.let(1)
        watched.arrived()
    short = start(runner, "d e", 2)
    watched.go_on()
    assert text(short) == alone(folder, "d e", 2)
    assert not long.done() or len(watched.shapes) < 45
    assert text(long) == alone(folder, "a b c", 40)
    assert (2, 1) in watched.shapes


def test_a_long_prompt_goes_in_by_pieces_between_the_steps_of_the_others(folder: Path) -> None:
    runner, watched = load(folder, prefill_tokens=4)
    watched.hold()
    running = start(runner, "a b c", 30)
    watched.let(1)
    watched.arrived()
    prompt = " ".join("defghijklmnop")
    late = start(runner, prompt, 4)
    watched.go_on()
    assert text(late) == alone(folder, prompt, 4)
    assert text(running) == alone(folder, "a b c", 30)
    pieces = [index for index, shape in enumerate(watched.shapes) if shape[1] > 1]
    assert [watched.shapes[index][1] for index in pieces] == [3, 4, 4, 4]
    for before, after in pairwise(pieces[1:]):
        assert after - before == 2  # one step of the running row between two pieces
    runner.close()


def test_the_answer_is_heard_piece_by_piece(tiny: tuple[TextGenerationRunner, Watched]) -> None:
    runner, _ = tiny
    heard: list[str] = []
    answer = runner.submit({"inputs": "a b c"}, {"max_new_tokens": 12}, heard.append)
    assert "".join(heard if text(answer) else []) == text(answer)
    assert len(heard) > 1


def test_seeds_draw_the_same_in_any_company(tiny: tuple[TextGenerationRunner, Watched]) -> None:
    runner, _ = tiny
    drawn = {"do_sample": True, "seed": 7, "temperature": 1.5}
    by_itself = text(start(runner, "a b c", 12, **drawn))
    company = [start(runner, prompt, 20, do_sample=True) for prompt in PROMPTS]
    assert text(start(runner, "a b c", 12, **drawn)) == by_itself
    wait(company, PATIENCE_S)
