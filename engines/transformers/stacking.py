"""What rows give the model besides their prompts (pixels, grids, token types), put together for a batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from engines.transformers.row import Row

SOURCE = "source"
"""The extra that holds the tokens an encoder reads, (1, tokens) int64, where the row itself is a decoder's."""


def stackable(rows: Sequence[Row]) -> list[list[Row]]:
    """Return `rows` in groups whose extras can be put together; without extras, all rows are one group."""
    groups: dict[tuple[object, ...], list[Row]] = {}
    for row in rows:
        shapes = (
            (name, *(() if _goes_along(tensor, row) else tensor.shape[1:]))
            for name, tensor in row.extras.items()
            if name != SOURCE
        )
        groups.setdefault(tuple(sorted(shapes, key=str)), []).append(row)
    return list(groups.values())


def stacked(rows: Sequence[Row], width: int) -> dict[str, torch.Tensor]:
    """Return the extras of one group of rows for prompts padded on the left to `width`.

    Along the first dimension, each row's part follows the one before: a row may have several images there.
    """
    return {
        name: torch.cat([_padded(row.extras[name], row, width) for row in rows])
        for name in rows[0].extras
        if name != SOURCE
    }


def _goes_along(tensor: torch.Tensor, row: Row) -> bool:
    """Tell whether `tensor` holds something for each token of the prompt, as token types do."""
    return tuple(tensor.shape[:2]) == (1, len(row.prompt))


def _padded(tensor: torch.Tensor, row: Row, width: int) -> torch.Tensor:
    if not _goes_along(tensor, row) or len(row.prompt) == width:
        return tensor
    padding = tensor.new_zeros((1, width - len(row.prompt), *tensor.shape[2:]))
    return torch.cat([padding, tensor], dim=1)
