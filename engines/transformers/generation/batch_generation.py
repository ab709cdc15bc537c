"""Rows of different lengths and settings run to their end in one padded batch of `generate`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    StoppingCriteria,
    StoppingCriteriaList,
)

from engines.transformers.generation.row import Row

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


OnStep = Callable[[], None]
"""Called whenever every row has its next token."""


def generate_rows(model: PreTrainedModel, rows: Sequence[Row], on_step: OnStep | None = None) -> None:
    """Run every row to its end; greedy rows get the tokens that `generate` gives each of them alone.

    The answers are in the rows afterwards. Rows whose extras do not stack run in separate batches.
    """
    for batch in stackable(rows):
        run_batch(model, batch, on_step, **_inputs(model, batch))


def _inputs(model: PreTrainedModel, rows: Sequence[Row]) -> dict[str, torch.Tensor]:
    """Return what the model reads of `rows`; what is shorter is padded, where the mask hides it.

    Prompts are padded on the left, since they go on on the right; what an encoder reads, on the right.
    """
    pad = model.generation_config.pad_token_id
    read = [row.extras[SOURCE][0].tolist() if SOURCE in row.extras else row.prompt for row in rows]
    width = max(len(tokens) for tokens in read)
    padding = [width - len(tokens) for tokens in read]
    if SOURCE in rows[0].extras:
        ids = [tokens + [pad] * count for tokens, count in zip(read, padding, strict=True)]
        mask = [[1] * (width - count) + [0] * count for count in padding]
    else:
        ids = [[pad] * count + tokens for tokens, count in zip(read, padding, strict=True)]
        mask = [[0] * count + [1] * (width - count) for count in padding]
    return {
        "input_ids": torch.tensor(ids, device=model.device),
        "attention_mask": torch.tensor(mask, device=model.device),
        **stacked(rows, width),
    }


def run_batch(
    model: PreTrainedModel, rows: Sequence[Row], on_step: OnStep | None = None, **inputs: torch.Tensor
) -> None:
    """Run rows to their ends in one batch, given what the model reads of them as `inputs`."""
    width = max(len(row.prompt) for row in rows)
    own_way = not all(row.picker.sampling.is_plain for row in rows)
    _generate(
        model,
        max_new_tokens=max(row.budget for row in rows),
        stopping_criteria=StoppingCriteriaList([_RowsDone(rows, on_step)]),
        logits_processor=LogitsProcessorList([_RowsPick(rows, width)] if own_way else []),
        **inputs,
    )


def search_beams(
    model: PreTrainedModel, row: Row, beams: dict[str, Any], on_step: OnStep | None = None
) -> None:
    """Run one row to its end by beam search; `beams` holds num_beams and its companions.

    The row has its tokens at the end, not before; where `on_step` gives it up, the search ends.
    """
    run_beams(model, row, beams, on_step, **_inputs(model, [row]))


def run_beams(
    model: PreTrainedModel,
    row: Row,
    beams: dict[str, Any],
    on_step: OnStep | None = None,
    **inputs: torch.Tensor,
) -> None:
    """Run one row to its end by beam search, given what the model reads of it as `inputs`."""
    penalty = row.picker.sampling.repetition_penalty
    found = _generate(
        model,
        max_new_tokens=row.budget,
        repetition_penalty=penalty,
        stopping_criteria=StoppingCriteriaList([_GivenUp(row, on_step)]),
        **inputs,
        **beams,
    )
    for token in found[0, len(row.prompt) :].tolist():
        if row.accept(token):
            return


def _generate(model: PreTrainedModel, **arguments: Any) -> torch.Tensor:
    found: torch.Tensor = model.generate(**arguments)  # type: ignore[operator]
    return found


class _RowsDone(StoppingCriteria):
    """Hands each row its newest token and tells which rows are done."""

    def __init__(self, rows: Sequence[Row], on_step: OnStep | None) -> None:
        self._rows = rows
        self._on_step = on_step

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        for row, token in zip(self._rows, input_ids[:, -1].tolist(), strict=True):
            row.accept(token)
        if self._on_step is not None:
            self._on_step()
        return torch.tensor([row.finish_reason is not None for row in self._rows], device=input_ids.device)


class _GivenUp(StoppingCriteria):
    """Ends all beams of a row that is given up."""

    def __init__(self, row: Row, on_step: OnStep | None) -> None:
        self._row = row
        self._on_step = on_step

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        if self._on_step is not None:
            self._on_step()
        given_up = self._row.finish_reason is not None
        return torch.full((input_ids.shape[0],), given_up, device=input_ids.device)


class _RowsPick(LogitsProcessor):
    """Lets each row that is not plainly greedy pick its token; only that token keeps a score."""

    def __init__(self, rows: Sequence[Row], width: int) -> None:
        self._rows = rows
        self._padding = [width - len(row.prompt) for row in rows]

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        for index, (row, padding) in enumerate(zip(self._rows, self._padding, strict=True)):
            if row.finish_reason is not None or row.picker.sampling.is_plain:
                continue
            token = row.picker.pick(scores[index], input_ids[index, padding:])
            scores[index] = -torch.inf
            scores[index, token] = 0.0
        return scores
