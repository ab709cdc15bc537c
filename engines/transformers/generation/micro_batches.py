"""The loop for models and requests that cannot join a running batch: padded batches of similar ones, by `generate`."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import LogitsProcessor, LogitsProcessorList, PreTrainedModel, StoppingCriteria, StoppingCriteriaList

from engines.transformers.device import as_run_error
from engines.transformers.generation.cache_sizes import CacheSizes, Limits
from engines.transformers.generation.loop import GenerationLoop, ResultOf
from engines.transformers.generation.token_sequence import TokenSequence
from engines.transformers.memory_limits import ShrinkOnOutOfMemory
from handlers.errors import is_out_of_memory

SOURCE = "source"
"""The extra with the encoder's input tokens, (1, tokens) int64, where the prompt is the decoder's."""

OnStep = Callable[[], None]
"""Called whenever every sequence has its next token."""

_AGEING_TOKENS_PER_S = 16.0
"""How much shorter a waiting row counts per second, so that a long one is not passed over for ever."""


class MicroBatchLoop(GenerationLoop):
    """Runs rows with similar budgets together by `generate`; each is answered when it is done itself. A batch takes
    at most `limits.max_bytes` of cache, if all its rows grow as long as the longest may; a single row always runs. A
    request with beams runs alone. A batch that fails is bisected; where one does not fit the memory, the limit becomes
    half of its bytes."""

    def __init__(
        self,
        name: str,
        generate: Callable[[Sequence[TokenSequence], OnStep], None],
        limits: Limits,
        result_of: ResultOf,
        sizes: CacheSizes,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(name, result_of, clock)
        self._generate = generate
        self._max_rows = limits.max_rows
        self._bytes_at_once = ShrinkOnOutOfMemory(name, of="bytes of cache", most=limits.max_bytes)
        self._sizes = sizes
        self._running: list[TokenSequence] = []
        self._halves: deque[list[TokenSequence]] = deque()

    def _under_way(self) -> list[TokenSequence]:
        return [*self._running, *(sequence for half in self._halves for sequence in half)]

    def _work(self) -> None:
        batch = self._halves.popleft() if self._halves else self._next_batch()
        self._running = [sequence for sequence in batch if not sequence.future.cancelled()]
        if not self._running:
            return
        self._generate(self._running, partial(self.follow, self._running))
        for sequence in self._running:
            self.settle(sequence)
        self._running = []

    def _failed(self, error: BaseException) -> None:
        batch, self._running = self._running, []
        left = [sequence for sequence in batch if not sequence.future.done()]
        self._note_failure(left, error)
        if len(left) == 1:
            self.settle(left[0], as_run_error(error, self._name))
            return
        if is_out_of_memory(error):
            self._bytes_at_once.shrink(self._bytes(batch))
        middle = len(left) // 2
        for sequence in left:
            sequence.start_again()
        self._halves.extendleft([left[middle:], left[:middle]])

    def _next_batch(self) -> list[TokenSequence]:
        """Take the shortest of the most urgent rows off the queue; waiting makes them count as shorter."""
        now = self._clock()
        with self._changed:
            order = sorted(
                self._waiting,
                key=lambda one: (one.sort_key[0], one.budget - (now - one.since) * _AGEING_TOKENS_PER_S),
            )
            batch = order[:1]
            if batch and not batch[0].beams:
                batch = self._fitting([sequence for sequence in order if not sequence.beams])
            for sequence in batch:
                self._waiting.remove(sequence)
                sequence.on_begin()
        return batch

    def _fitting(self, sequences: Sequence[TokenSequence]) -> list[TokenSequence]:
        batch: list[TokenSequence] = []
        for sequence in sequences[: self._max_rows]:
            if batch and self._bytes([*batch, sequence]) > self._bytes_at_once.most:
                break
            batch.append(sequence)
        return batch

    def _bytes(self, sequences: Sequence[TokenSequence]) -> int:
        """Return the most bytes of cache that a batch may take. Every row takes as much as the longest of each part:
        encoder input, prompt and answer."""
        read = max(one.extras[SOURCE].shape[1] if SOURCE in one.extras else 0 for one in sequences)
        most = read + max(len(one.prompt) for one in sequences) + max(one.budget for one in sequences)
        return len(sequences) * self._sizes.of(most)


def generate(model: PreTrainedModel, sequences: Sequence[TokenSequence], on_step: OnStep) -> None:
    """Run every sequence to its end; greedy ones get the tokens that `generate` gives each of them alone. The answers
    are in the sequences afterwards. Sequences whose extras do not stack run in separate batches. A sequence with
    `beams` must be alone, and gets its tokens only at the end; where `on_step` gives it up, the search ends."""
    groups: dict[tuple[object, ...], list[TokenSequence]] = {}
    for one in sequences:
        shapes = (
            (name, *(() if _goes_along(tensor, one) else tensor.shape[1:]))
            for name, tensor in one.extras.items()
            if name != SOURCE
        )
        groups.setdefault(tuple(sorted(shapes, key=str)), []).append(one)
    for batch in groups.values():
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
