"""Prompts with images go into the running batch by pieces, and are answered as `generate` answers them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from engines.transformers.generation.rolling.batch import RollingBatch
from engines.transformers.generation.rolling.cache import fits
from engines.transformers.generation.rolling.prefill import Prefill
from engines.transformers.generation.sampling import Sampling, TokenPicker
from engines.transformers.generation.token_sequence import TokenSequence
from tests.unit.engines.tiny_models import tokenizer
from tests.unit.engines.transformers.generation.rolling import families
from tests.unit.engines.transformers.generation.rolling.families import Asked

BY_PIECES = (families.llava, families.smolvlm, families.qwen2_5_vl)
WHOLE = (families.paligemma, families.qwen3_vl)
BUDGET = 12


@pytest.fixture(autouse=True)
def without_gradients() -> Iterator[None]:
    with torch.inference_mode():
        yield


def row(tokens: list[int], budget: int = BUDGET, extras: Any = None) -> TokenSequence:
    return TokenSequence(
        tokens,
        extras=extras or {},
        tokenizer=tokenizer(chat=False),
        ends=frozenset(),
        budget=budget,
        stop=(),
        picker=TokenPicker(Sampling()),
    )


def own_generate(model: Any, tokens: list[int], extras: Any, budget: int = BUDGET) -> list[int]:
    """Return the new tokens that the library's own generate gives for one prompt."""
    model.generation_config.eos_token_id = None
    ids = torch.tensor([tokens])
    found = model.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=budget, **extras
    )
    new: list[int] = found[0, len(tokens) :].tolist()
    return new


def columns_of_the_text_model(model: Any) -> list[int]:
    """Return a list that grows by the columns of each run of the text model that comes to its end."""
    seen: list[int] = []

    def note(module: Any, arguments: Any, output: Any) -> None:
        seen.append(output.last_hidden_state.shape[1])

    model.get_decoder().register_forward_hook(note)
    return seen


def work_in(model: Any, batch: RollingBatch, *rows: TokenSequence, most_tokens: int) -> int:
    """Prefill rows with a step of the batch between two pieces; return the number of pieces."""
    prefill, pieces = Prefill(model, rows), 1
    while (scores := prefill.advance(model, most_tokens)) is None:
        pieces += 1
        if batch.sequences:
            batch.step()
    batch.join(prefill, scores)
    return pieces


@pytest.mark.parametrize("most_tokens", [1, 4, 1000])
@pytest.mark.parametrize("family", [*BY_PIECES, *WHOLE], ids=lambda family: family.__name__)
def test_every_family_answers_as_generate_does_beside_a_running_row(
    family: Callable[[], Asked], most_tokens: int
) -> None:
    model, tokens, extras = families.make(family)
    assert fits(model)
    expected = own_generate(model, tokens, extras)
    text = own_generate(model, [7, 8, 9], {}, 40)
    batch = RollingBatch(model, 10_000)
    running, asked = row([7, 8, 9], 40), row(tokens, extras=extras)
    work_in(model, batch, running, most_tokens=1000)
    work_in(model, batch, asked, most_tokens=most_tokens)
    while batch.sequences:
        batch.step()
    assert asked.tokens == expected
    assert running.tokens == text


@pytest.mark.parametrize("family", [*BY_PIECES, *WHOLE], ids=lambda family: family.__name__)
def test_a_row_with_an_image_that_joins_anew_goes_on_where_it_was(family: Callable[[], Asked]) -> None:
    model, tokens, extras = families.make(family)
    expected = own_generate(model, tokens, extras)
    batch, asked = RollingBatch(model, 10_000), row(tokens, extras=extras)
    for _ in range(2):
        work_in(model, batch, asked, most_tokens=4)
        for _ in range(4):
            batch.step()
        batch.clear()
    assert 4 < len(asked.tokens) < BUDGET
    work_in(model, batch, asked, most_tokens=4)
    while batch.sequences:
        batch.step()
    assert asked.tokens == expected


@pytest.mark.parametrize("family", BY_PIECES, ids=lambda family: family.__name__)
def test_no_piece_of_a_prompt_with_an_image_is_longer_than_the_bound(family: Callable[[], Asked]) -> None:
    model, tokens, extras = families.make(family)
    columns = columns_of_the_text_model(model)
    pieces = work_in(model, RollingBatch(model, 10_000), row(tokens, extras=extras), most_tokens=4)
    assert columns == [4] * (len(tokens) // 4) + [len(tokens) % 4][: len(tokens) % 4]
    assert pieces == 1 + len(columns)  # the images are the first


@pytest.mark.parametrize("family", WHOLE, ids=lambda family: family.__name__)
def test_where_the_text_model_is_given_more_than_embeddings_the_prompt_runs_once_and_whole(
    family: Callable[[], Asked],
) -> None:
    model, tokens, extras = families.make(family)
    columns = columns_of_the_text_model(model)
    pieces = work_in(model, RollingBatch(model, 10_000), row(tokens, extras=extras), most_tokens=4)
    assert columns == [len(tokens)]
    assert pieces == 1


def test_a_row_that_leaves_takes_its_positions_with_it() -> None:
    model, tokens, extras = families.make(families.qwen2_5_vl)
    text, seen = own_generate(model, [7, 8, 9], {}, 20), own_generate(model, tokens, extras, 20)
    batch = RollingBatch(model, 10_000)
    short, pictured, plain = row([8, 9], 3), row(tokens, 20, extras), row([7, 8, 9], 20)
    for one in (short, plain, pictured):
        work_in(model, batch, one, most_tokens=1000)
    while batch.sequences:
        batch.step()
    assert (plain.tokens, pictured.tokens) == (text, seen)


def test_a_run_in_another_thread_is_not_ended_where_its_text_model_begins() -> None:
    model, tokens, extras = families.make(families.llava)
    found: list[int] = []

    def ask() -> None:
        with torch.inference_mode():
            found.append(model(input_ids=torch.tensor([[7, 8, 9]])).logits.shape[1])

    def ask_beside(module: Any, arguments: Any) -> None:
        beside = threading.Thread(target=ask)
        beside.start()
        beside.join()

    hook = model.model.vision_tower.register_forward_pre_hook(ask_beside)
    work_in(model, RollingBatch(model, 10_000), row(tokens, extras=extras), most_tokens=4)
    hook.remove()
    assert found == [3]
