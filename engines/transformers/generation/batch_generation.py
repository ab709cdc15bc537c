"""Runs sequences of different lengths and settings to their end in one padded batch of `generate`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    StoppingCriteria,
    StoppingCriteriaList,
)

from engines.transformers.generation.token_sequence import TokenSequence

SOURCE = "source"
"""The extra with the encoder's input tokens, (1, tokens) int64, where the prompt is the decoder's."""

OnStep = Callable[[], None]
"""Called whenever every sequence has its next token."""


def generate(model: PreTrainedModel, sequences: Sequence[TokenSequence], on_step: OnStep) -> None:
    """Run every sequence to its end; greedy ones get the tokens that `generate` gives each of them alone. The answers
    are in the sequences afterwards. Sequences whose extras do not stack run in separate batches. A sequence with
    `beams` must be alone, and gets its tokens only at the end; where `on_step` gives it up, the search ends."""
    for batch in _stackable(sequences):
        _run(model, batch, on_step)


def _run(model: Any, batch: Sequence[TokenSequence], on_step: OnStep) -> None:
    width = max(len(one.prompt) for one in batch)
    beams = batch[0].beams
    own_way = not all(one.picker.sampling.is_plain for one in batch)
    picks = [_Picks(batch, width)] if own_way and not beams else []
    if beams:
        beams = {**beams, "repetition_penalty": batch[0].picker.sampling.repetition_penalty}
    found = model.generate(
        max_new_tokens=max(one.budget for one in batch),
        stopping_criteria=StoppingCriteriaList([_Done(batch, on_step)]),
        logits_processor=LogitsProcessorList(picks),
        **_inputs(model, batch),
        **beams,
    )
    if beams:
        for token in found[0, width:].tolist():
            if batch[0].accept(token):
                return


def _stackable(sequences: Sequence[TokenSequence]) -> list[list[TokenSequence]]:
    """Return `sequences` in groups whose extras can be stacked; without extras, all are one group."""
    groups: dict[tuple[object, ...], list[TokenSequence]] = {}
    for one in sequences:
        shapes = (
            (name, *(() if _goes_along(tensor, one) else tensor.shape[1:]))
            for name, tensor in one.extras.items()
            if name != SOURCE
        )
        groups.setdefault(tuple(sorted(shapes, key=str)), []).append(one)
    return list(groups.values())


def _inputs(model: Any, batch: Sequence[TokenSequence]) -> dict[str, torch.Tensor]:
    """Return the model's inputs for `batch`; shorter rows are padded, and the mask hides the padding. Prompts are
    padded on the left, as they continue on the right; encoder inputs on the right. An encoder of images gets only the
    images."""
    has_source = SOURCE in batch[0].extras
    if model.config.is_encoder_decoder and not has_source:
        return _stacked(batch, 0)
    read = [one.extras[SOURCE][0].cpu() if has_source else torch.tensor(one.prompt) for one in batch]
    side = "right" if has_source else "left"
    pad: float = model.generation_config.pad_token_id
    ids = pad_sequence(read, batch_first=True, padding_value=pad, padding_side=side)
    mask = pad_sequence([torch.ones_like(one) for one in read], batch_first=True, padding_side=side)
    return {
        "input_ids": ids.to(model.device),
        "attention_mask": mask.to(model.device),
        **_stacked(batch, ids.shape[1]),
    }


def _stacked(batch: Sequence[TokenSequence], width: int) -> dict[str, torch.Tensor]:
    """Return the extras of one group for prompts padded on the left to `width`. They are concatenated along the first
    dimension: one sequence may have several images there."""
    return {
        name: torch.cat([_padded(one.extras[name], one, width) for one in batch])
        for name in batch[0].extras
        if name != SOURCE
    }


def _goes_along(tensor: torch.Tensor, sequence: TokenSequence) -> bool:
    return tuple(tensor.shape[:2]) == (1, len(sequence.prompt))


def _padded(tensor: torch.Tensor, sequence: TokenSequence, width: int) -> torch.Tensor:
    missing = width - len(sequence.prompt)
    if missing <= 0 or not _goes_along(tensor, sequence):
        return tensor
    return torch.nn.functional.pad(tensor, (0, 0) * (tensor.dim() - 2) + (missing, 0))


class _Done(StoppingCriteria):
    """Appends the newest token to each sequence, except with beams, and reports which rows are done."""

    def __init__(self, batch: Sequence[TokenSequence], on_step: OnStep) -> None:
        self._batch = batch
        self._on_step = on_step

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        if not self._batch[0].beams:
            for one, token in zip(self._batch, input_ids[:, -1].tolist(), strict=True):
                one.accept(token)
        self._on_step()
        done = torch.tensor([one.finish_reason is not None for one in self._batch], device=input_ids.device)
        return done.repeat_interleave(len(input_ids) // len(done))


class _Picks(LogitsProcessor):
    """Lets each sequence that is not plainly greedy pick its token; only that token keeps a score."""

    def __init__(self, batch: Sequence[TokenSequence], width: int) -> None:
        self._batch = batch
        self._padding = [width - len(one.prompt) for one in batch]

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        for index, (one, padding) in enumerate(zip(self._batch, self._padding, strict=True)):
            if one.finish_reason is not None or one.picker.sampling.is_plain:
                continue
            token = one.picker.pick(scores[index], input_ids[index, padding:])
            scores[index] = -torch.inf
            scores[index, token] = 0.0
        return scores
