"""The rolling cache against a plain list of what each row has seen."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    BloomForCausalLM,
    DynamicCache,
    MistralConfig,
    MistralForCausalLM,
)

from engines.transformers.generation.rolling.cache import RollingCache, fits
from tests.unit.engines.tiny_models import save_llama

HEADS, SIZE, LAYERS = 2, 3, 2
PLENTY = 2**20


def states(values: list[list[float]]) -> torch.Tensor:
    """Return (rows, heads, columns, size) of which every element tells row and column."""
    return torch.tensor(values)[:, None, :, None].expand(-1, HEADS, -1, SIZE).contiguous()


def joining(rows: list[list[float]]) -> DynamicCache:
    """Return a cache of `rows` padded on the left with -1."""
    width = max(len(row) for row in rows)
    padded = states([[-1.0] * (width - len(row)) + row for row in rows])
    cache = DynamicCache()
    for layer in range(LAYERS):
        cache.update(padded, -padded, layer)
    return cache


def held(cache: RollingCache) -> int:
    """Return how many tokens the block of every layer has room for."""
    sizes = {block.keys.shape[0] * block.keys.shape[2] for block in cache.blocks if block.keys is not None}
    assert len(sizes) < 2
    return max(sizes, default=0)


def watch_copies(cache: RollingCache, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Return a list that grows by what is asked for each time the block is made anew."""
    copies: list[tuple[int, ...]] = []
    move = cache._move

    def counted(*arguments: int) -> Any:
        copies.append(arguments)
        return move(*arguments)

    monkeypatch.setattr(cache, "_move", counted)
    return copies


def append(cache: RollingCache, values: list[float]) -> list[list[float]]:
    """Append one value to each row, as a model does, and return what each row then sees, layer by layer the same."""
    cache.reserve()
    mask = cache.mask(torch.device("cpu")).bool()
    new = states([[value] for value in values])
    seen = []
    for layer in range(LAYERS):
        keys, given = cache.update(new, -new, layer)
        assert torch.equal(keys, -given)
        assert (keys == keys[:, :1, :, :1]).all()
        seen.append([keys[row, 0, mask[row], 0].tolist() for row in range(cache.rows)])
    assert seen[0] == seen[1]
    cache.advance()
    return seen[0]


@pytest.mark.parametrize("seed", range(20))
def test_every_row_sees_its_own_past_whoever_comes_and_goes(seed: int) -> None:
    chance = random.Random(seed)
    cache, number = RollingCache(LAYERS, PLENTY), 0.0
    rows: list[list[float]] = []
    for _ in range(60):
        if not rows or (len(rows) < 6 and chance.random() < 0.3):
            new: list[list[float]] = []
            for _ in range(chance.randint(1, 3)):
                length = chance.randint(1, 20)
                new.append([number + step / 64 for step in range(length)])
                number += 1
            cache.join(joining(new), [len(row) for row in new])
            rows += new
        elif chance.random() < 0.2:
            gone = chance.randrange(len(rows))
            cache.leave(gone)
            last = rows.pop()
            if gone < len(rows):
                rows[gone] = last
            if not rows:
                cache.clear()
        if rows:
            values = [row[-1] + 1 / 64 for row in rows]
            for row, value in zip(rows, values, strict=True):
                row.append(value)
            assert append(cache, values) == rows
            assert cache.lengths() == [len(row) for row in rows]
            assert cache.width == max(len(row) for row in rows)


def test_columns_that_no_row_uses_any_more_are_not_looked_at() -> None:
    cache = RollingCache(LAYERS, PLENTY)
    cache.join(joining([[1.0] * 50, [2.0]]), [50, 1])
    cache.leave(0)
    assert cache.width == 1
    assert append(cache, [2.5]) == [[2.0, 2.5]]


def test_a_block_that_grows_by_a_row_and_a_column_at_a_time_is_seldom_copied(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cache = RollingCache(LAYERS, PLENTY)
    copies = watch_copies(cache, monkeypatch)
    for row in range(16):
        cache.join(joining([[float(row)]]), [1])
        for _ in range(16):
            append(cache, [0.0] * cache.rows)
    assert len(copies) < 16


@pytest.mark.parametrize("seed", range(20))
def test_the_block_never_outgrows_its_bound_however_tight(seed: int) -> None:
    chance = random.Random(seed)
    most_rows, most_columns = 5, 40
    most = most_rows * most_columns
    cache, rows, left = RollingCache(LAYERS, most), list[list[float]](), list[int]()
    for number in range(300):
        if len(rows) < most_rows and chance.random() < 0.4:
            length = chance.randint(1, most_columns - 1)
            new = [number + step / 64 for step in range(length)]
            cache.make_way(length)
            assert held(cache) + length <= most
            cache.join(joining([new]), [length])
            rows.append(new)
            left.append(chance.randint(1, most_columns - length))
        if rows:
            for row in rows:
                row.append(row[-1] + 1 / 64)
            assert append(cache, [row[-1] for row in rows]) == rows
            assert held(cache) <= most
        left = [count - 1 for count in left]
        for index in reversed(range(len(rows))):
            if left[index] == 0:
                cache.leave(index)
                rows[index], left[index] = rows[-1], left[-1]
                rows.pop()
                left.pop()
        if not rows:
            cache.clear()


def test_a_tight_block_is_seldom_copied_too(monkeypatch: pytest.MonkeyPatch) -> None:
    cache = RollingCache(LAYERS, 3 * 1000)
    copies = watch_copies(cache, monkeypatch)
    cache.join(joining([[float(row)] for row in range(3)]), [1] * 3)
    while cache.end < 1000:
        append(cache, [0.0] * 3)
    assert len(copies) < 20


def test_what_joins_lets_go_of_its_own_keys_and_values_layer_by_layer() -> None:
    cache, new = RollingCache(LAYERS, 200), joining([[1.0, 2.0]])
    cache.join(new, [2])
    layers: list[Any] = list(new.layers)
    assert all(layer.keys is None and layer.values is None for layer in layers)
    assert append(cache, [3.0]) == [[1.0, 2.0, 3.0]]


def test_room_kept_for_one_who_joins_is_given_back_where_he_does_not() -> None:
    cache = RollingCache(LAYERS, 100)
    cache.join(joining([[1.0, 2.0]]), [2])
    cache.make_way(60)
    assert held(cache) <= 40
    cache.make_way(0)
    for _ in range(80):
        append(cache, [0.0])
    assert 80 < held(cache) <= 100


def test_a_plain_model_fits(tmp_path: Path) -> None:
    model: Any = AutoModelForCausalLM.from_pretrained(save_llama(tmp_path / "llama"))
    assert fits(model)


def test_models_that_forget_or_count_positions_otherwise_do_not_fit() -> None:
    tiny: dict[str, Any] = {
        "vocab_size": 32,
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
    }
    assert not fits(MistralForCausalLM(MistralConfig(**tiny, sliding_window=8)))  # type: ignore[no-untyped-call]
    assert fits(MistralForCausalLM(MistralConfig(**tiny, sliding_window=None)))  # type: ignore[no-untyped-call]
    bloom = BloomConfig(vocab_size=32, hidden_size=16, n_layer=1, n_head=2)
    assert not fits(BloomForCausalLM(bloom))
