"""The attention cache of the running batch: one block a layer, written in place."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from transformers import Cache, DynamicCache, PreTrainedModel
from transformers.cache_utils import CacheLayerMixin, DynamicLayer

from engines.transformers.generation.rolling.prefill import knows_positions

_LEAST_ROOM = 32
"""Columns kept free on the right when the block is rebuilt."""

_ROWS_AT_ONCE = 4
"""Rows by which the block grows."""


_Moved = Callable[[torch.Tensor], torch.Tensor]
"""Makes the new block of a layer from its old one."""


class RollingCache(Cache):
    """Keys and values of rows that all end in the same column and begin in their own columns.

    Row `r` is in columns `starts[r]` to `end`; what is left of that belongs to another row's past or to none, and
    `mask` hides it. Appending a token to every row writes one column; the last row moves into the place of one that
    leaves. The block is copied only when rows or columns outgrow it. Not thread-safe.

    The block has room for at most `most_tokens`, rows times columns, unless the rows themselves need more. While it
    is copied, keys or values of one layer are in memory twice.
    """

    def __init__(self, layers: int, most_tokens: int) -> None:
        self._most_tokens = most_tokens
        self._beside = 0
        """Tokens of rows that are about to join: they count towards the limit."""
        self.starts: list[int] = []
        self.end = 0
        self.capacity = (0, 0)
        self.blocks = [_Layer(self) for _ in range(layers)]
        super().__init__(layers=list(self.blocks))

    @property
    def rows(self) -> int:
        return len(self.starts)

    @property
    def start(self) -> int:
        return min(self.starts, default=self.end)

    @property
    def width(self) -> int:
        return self.end - self.start

    def lengths(self) -> list[int]:
        return [self.end - start for start in self.starts]

    def mask(self, device: torch.device) -> torch.Tensor:
        """Return the columns that each row sees once one more is appended: (rows, width + 1), int64."""
        columns = torch.arange(self.start, self.end + 1, device=device)
        starts = torch.tensor(self.starts, device=device)
        return (columns[None, :] >= starts[:, None]).long()

    def reserve(self) -> None:
        """Make room for one more column."""
        if self.end + 1 > self.capacity[1]:
            self._move_blocks()

    def advance(self) -> None:
        """Count the column that the model has appended to every row."""
        self.end += 1

    def limit(self, most_tokens: int) -> None:
        """Change the bound."""
        self._most_tokens = most_tokens
        self._keep_within()

    def make_way(self, tokens: int) -> None:
        """Reserve memory for `tokens` held elsewhere until they join; 0 to release it."""
        self._beside = tokens
        self._keep_within()

    def join(self, joining: DynamicCache, lengths: list[int]) -> None:
        """Append the rows of `joining`, padded on the left; `lengths` are their lengths. Its layers are taken over
        one by one, so it is empty afterwards."""
        width = joining.get_seq_length()
        rows = self.rows + len(lengths)
        self._beside = 0
        outgrown = rows > self.capacity[0] or width > self.end
        move = self._move(rows, max(self.width, width)) if outgrown else None
        for block, layer in zip(self.blocks, joining.layers, strict=True):
            if move is not None:
                block.move(move)
            block.take(self.rows, self.end - width, layer)
        self.starts += [self.end - length for length in lengths]

    def leave(self, row: int) -> None:
        """Drop a row; the last one takes its number."""
        last, start = self.rows - 1, self.starts.pop()
        if row != last:
            for block in self.blocks:
                for held in (block.keys, block.values):
                    assert held is not None
                    held[row, :, start : self.end] = held[last, :, start : self.end]
            self.starts[row] = start

    def clear(self) -> None:
        self.starts.clear()
        self.end, self.capacity = 0, (0, 0)
        self._beside = 0
        for block in self.blocks:
            block.keys = block.values = None

    def _keep_within(self) -> None:
        if self.capacity[0] * self.capacity[1] + self._beside > self._most_tokens and self.rows:
            self._move_blocks()

    def _move_blocks(self) -> None:
        move = self._move(self.rows, self.width)
        for block in self.blocks:
            block.move(move)

    def _move(self, rows: int, width: int) -> _Moved:
        """Lay the block out for `rows` and `width` columns with room to grow; the caller moves the layers."""
        capacity = self._capacity(rows, width)
        kept, live, begin = self.rows, slice(self.start, self.end), width - self.width

        def moved(block: torch.Tensor) -> torch.Tensor:
            made = _empty(block, capacity)
            made[:kept, :, begin:width] = block[:kept, :, live]
            return made

        self.starts = [start + width - self.end for start in self.starts]
        self.end, self.capacity = width, capacity
        return moved

    def _capacity(self, rows: int, width: int) -> tuple[int, int]:
        """Return rows and columns with room to grow: as much as saves copies, within the bound."""
        most = self._most_tokens - self._beside
        rounded = -(-rows // _ROWS_AT_ONCE) * _ROWS_AT_ONCE
        if rounded * (width + _LEAST_ROOM) <= most:
            rows = rounded
        # A quarter more than is used: few copies, and little unused memory.
        columns = width + max(_LEAST_ROOM, width // 4)
        return rows, max(width + 1, min(columns, most // rows))


class _Layer(CacheLayerMixin):
    """The block of one layer: keys and values (rows, heads, columns, head size)."""

    is_sliding = False

    def __init__(self, cache: RollingCache) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._cache = cache

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        raise RuntimeError("a row joins before it is appended to")

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        assert self.keys is not None
        assert self.values is not None
        cache = self._cache
        end = cache.end + key_states.shape[2]
        self.keys[: cache.rows, :, cache.end : end] = key_states
        self.values[: cache.rows, :, cache.end : end] = value_states
        used = (slice(cache.rows), slice(None), slice(cache.start, end))
        return self.keys[used], self.values[used]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self._cache.width + query_length, 0

    def get_seq_length(self) -> int:
        return self._cache.width

    def get_max_length(self) -> int:
        return -1

    def take(self, row: int, column: int, layer: Any) -> None:
        """Copy the rows of another cache's layer to `row` and `column` on, and empty it layer by layer."""
        if self.keys is None:  # only now its heads and sizes are known
            capacity = self._cache.capacity
            self.keys, self.values = _empty(layer.keys, capacity), _empty(layer.values, capacity)
        assert self.values is not None
        rows, _, width, _ = layer.keys.shape
        self.keys[row : row + rows, :, column : column + width] = layer.keys
        self.values[row : row + rows, :, column : column + width] = layer.values
        layer.keys = layer.values = None

    def move(self, moved: _Moved) -> None:
        if self.keys is not None and self.values is not None:
            self.keys, self.values = moved(self.keys), moved(self.values)


def _empty(block: torch.Tensor, capacity: tuple[int, int]) -> torch.Tensor:
    # Zeros, not old memory: a hidden column is multiplied by 0, but NaN times 0 is NaN.
    return block.new_zeros((capacity[0], block.shape[1], capacity[1], block.shape[3]))


def fits(model: PreTrainedModel) -> bool:
    """Return whether the model keeps plain keys and values of all tokens, wherever its rows begin. Not so for layers
    with sliding windows or states, or where a token's position is more than a number (Qwen-VL has three) and the
    model does not say which they are."""
    takes = inspect.signature(model.forward).parameters
    if not {"attention_mask", "position_ids", "past_key_values"} <= takes.keys():
        return False
    text: Any = model.config.get_text_config(decoder=True)
    ropes = (getattr(text, name, None) or {} for name in ("rope_parameters", "rope_scaling"))
    has_wide_positions = any("mrope_section" in rope for rope in ropes)
    if model.config.is_encoder_decoder or (has_wide_positions and not knows_positions(model)):
        return False
    try:
        layers = DynamicCache(config=model.config).layers
    except (AttributeError, KeyError, TypeError, ValueError):
        return False
    return bool(layers) and all(type(layer) is DynamicLayer for layer in layers)
