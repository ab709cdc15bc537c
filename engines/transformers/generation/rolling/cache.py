"""The attention cache of a batch whose rows come and go: one block a layer, written in place."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import torch
from transformers import Cache, DynamicCache, PreTrainedModel
from transformers.cache_utils import CacheLayerMixin, DynamicLayer

from engines.transformers.generation.rolling.merging import knows_positions

_LEAST_ROOM = 32
"""Columns kept free on the right when the block is rebuilt."""

_ROWS_AT_ONCE = 4
"""Rows by which the block grows."""


@dataclass(frozen=True, slots=True)
class _Move:
    """How a block is rebuilt: rows and columns of the new one, and what of the old one goes where."""

    capacity: tuple[int, int]
    rows: int
    live: slice
    end: int
    """The column after the last live one, in the new block."""


class RollingCache(Cache):
    """Keys and values of rows that all end in the same column and begin in their own columns.

    Row `r` holds what it has seen in columns `starts[r]` to `end`; what lies left of that is another row's past
    or nothing, and `mask` hides it. Appending a token to every row writes one column; a row that leaves makes
    room for the last one. The block is copied only when rows or columns outgrow it. Not thread-safe.

    The block never has room for more than `most_tokens`, rows times columns, as long as the rows alone do not
    need more. While it is copied, keys or values of one layer are held twice.
    """

    def __init__(self, layers: int, most_tokens: int) -> None:
        self._most_tokens = most_tokens
        self._beside = 0
        """Tokens of rows that are about to join: part of what there may be."""
        self.starts: list[int] = []
        self.end = 0
        self.capacity = (0, 0)
        self.blocks = [_Layer(self) for _ in range(layers)]
        super().__init__(layers=list(self.blocks))

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return len(self.starts)

    @property
    def start(self) -> int:
        """The first column that any row uses."""
        return min(self.starts, default=self.end)

    @property
    def width(self) -> int:
        """How many columns are in use."""
        return self.end - self.start

    def lengths(self) -> list[int]:
        """Return how many tokens each row has seen."""
        return [self.end - start for start in self.starts]

    def mask(self, new_columns: int, device: torch.device) -> torch.Tensor:
        """Return which columns each row sees once `new_columns` are appended: (rows, width + new), int64."""
        columns = torch.arange(self.start, self.end + new_columns, device=device)
        starts = torch.tensor(self.starts, device=device)
        return (columns[None, :] >= starts[:, None]).long()

    def advance(self, columns: int) -> None:
        """Count `columns` that the model has appended to every row."""
        self.end += columns

    def reserve(self, columns: int) -> None:
        """Make sure that `columns` more fit."""
        if self.end + columns > self.capacity[1]:
            self._move_blocks(columns)

    def make_way(self, tokens: int) -> None:
        """Leave memory for `tokens` that are held elsewhere until they join; 0 where they do not."""
        self._beside = tokens
        if self.capacity[0] * self.capacity[1] + tokens > self._most_tokens and self.rows:
            self._move_blocks(1)

    def join(self, joining: DynamicCache, lengths: list[int]) -> None:
        """Append rows: `joining` holds their prompts, padded on the left, `lengths` how long each one is.

        What it holds is taken over, layer by layer: it is empty afterwards.
        """
        width = joining.get_seq_length()
        rows = self.rows + len(lengths)
        self._beside = 0
        outgrown = rows > self.capacity[0] or width > self.end
        move = self._move(rows, max(self.width, width), 1) if outgrown else None
        for block, layer in zip(self.blocks, joining.layers, strict=True):
            if move is not None:
                block.move(move)
            block.take(self.rows, self.end - width, layer)
        self.starts += [self.end - length for length in lengths]

    def leave(self, row: int) -> None:
        """Drop a row; the last one takes its number."""
        last = self.rows - 1
        if row != last:
            columns = slice(self.starts[last], self.end)
            for block in self.blocks:
                block.copy_row(last, row, columns)
            self.starts[row] = self.starts[last]
        self.starts.pop()

    def clear(self) -> None:
        """Drop every row, and the memory."""
        self.starts.clear()
        self.end, self.capacity = 0, (0, 0)
        self._beside = 0
        for block in self.blocks:
            block.keys = block.values = None

    def _move_blocks(self, room: int) -> None:
        """Rebuild all blocks for the rows as they are, with room for that many columns."""
        move = self._move(self.rows, self.width, room)
        for block in self.blocks:
            block.move(move)

    def _move(self, rows: int, width: int, room: int) -> _Move:
        """Lay the block out again for `rows` and `width` columns with room to grow; the caller moves the layers."""
        capacity = self._capacity(rows, width, room)
        move = _Move(capacity, rows=self.rows, live=slice(self.start, self.end), end=width)
        shift = width - self.end
        self.starts = [start + shift for start in self.starts]
        self.end, self.capacity = width, capacity
        return move

    def _capacity(self, rows: int, width: int, room: int) -> tuple[int, int]:
        """Return rows and columns with room to grow: as much as saves copies, but within the bound."""
        most = self._most_tokens - self._beside
        rounded = -(-rows // _ROWS_AT_ONCE) * _ROWS_AT_ONCE
        if rounded * (width + max(room, _LEAST_ROOM)) <= most:
            rows = rounded
        # Room by a quarter of what is there: fewer copies, and little memory that is never used.
        columns = width + max(room, _LEAST_ROOM, width // 4)
        return rows, max(width + room, min(columns, most // rows))


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
        """Write the new columns and return all that are in use."""
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
        """Write the rows of another cache's layer from `row` and `column` on, and empty it: no past is held twice."""
        assert self.keys is not None or self._made_like(layer)
        assert self.keys is not None
        assert self.values is not None
        rows, _, width, _ = layer.keys.shape
        self.keys[row : row + rows, :, column : column + width] = layer.keys
        self.values[row : row + rows, :, column : column + width] = layer.values
        layer.keys = layer.values = None

    def copy_row(self, source: int, target: int, columns: slice) -> None:
        for block in (self.keys, self.values):
            assert block is not None
            block[target, :, columns] = block[source, :, columns]

    def move(self, move: _Move) -> None:
        if self.keys is None or self.values is None:
            return
        self.keys = _moved(self.keys, move)
        self.values = _moved(self.values, move)

    def _made_like(self, layer: Any) -> bool:
        """Make the empty block for what `layer` holds: only then its heads and sizes are known."""
        rows, columns = self._cache.capacity
        for name in ("keys", "values"):
            given = getattr(layer, name)
            setattr(self, name, given.new_zeros((rows, given.shape[1], columns, given.shape[3])))
        return True


def _moved(block: torch.Tensor, move: _Move) -> torch.Tensor:
    """Return a new block that holds the live columns of `block`."""
    # Zeros, not whatever was there: a hidden column counts for nothing, yet not if it holds no number.
    rows, columns = move.capacity
    made = block.new_zeros((rows, block.shape[1], columns, block.shape[3]))
    begin = move.end - (move.live.stop - move.live.start)
    made[: move.rows, :, begin : move.end] = block[: move.rows, :, move.live]
    return made


def fits(model: PreTrainedModel) -> bool:
    """Return whether the model keeps plain keys and values of all it has seen, wherever its rows begin.

    It does not where layers forget (sliding windows) or remember otherwise (states), or where a token's
    position is more than a number (Qwen-VL's three) and the model does not say which they are.
    """
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
