"""Prompts on their way into the running batch, in pieces of bounded size."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from transformers import DynamicCache, PreTrainedModel

from engines.transformers.generation.rolling.merging import merge
from engines.transformers.generation.token_sequence import TokenSequence


class Prefill:
    """Rows on their way into the batch. Not thread-safe; used under `torch.inference_mode`.

    Several rows go together, padded on the left; a row with extras goes alone. Where the rows have tokens of
    their own already, since they were in a batch before, those go in along with the prompts.
    """

    def __init__(self, model: PreTrainedModel, sequences: Sequence[TokenSequence]) -> None:
        self.sequences = list(sequences)
        self.cache = DynamicCache(config=model.config)
        self.lengths = [len(one.seen) for one in sequences]
        self.width = max(self.lengths)
        self.shifts = [0] * len(self.sequences)
        """How far each row's positions are ahead of its columns once its prompt is in."""
        self._done = 0
        device = model.device
        paddings = [self.width - length for length in self.lengths]
        self._ids = torch.tensor(
            [[0] * padding + one.seen for padding, one in zip(paddings, sequences, strict=True)],
            device=device,
        )
        self._mask = torch.tensor(
            [[0] * padding + [1] * length for padding, length in zip(paddings, self.lengths, strict=True)],
            device=device,
        )
        self._positions = (self._mask.cumsum(1) - 1).clamp(min=0)
        self._is_padded = any(paddings)
        self._extras = self.sequences[0].extras
        self._embeds: torch.Tensor | None = None

    @property
    def left(self) -> int:
        """How many columns of the prompts are still to go through the model."""
        return self.width - self._done

    def advance(self, model: PreTrainedModel, most_tokens: int) -> torch.Tensor | None:
        """Run the next piece; return the scores of the first new tokens, (rows, vocabulary), after the last.

        The images of a prompt are a separate piece, the first, after which as many columns are left.
        """
        if self._extras:
            output = self._merge(model)
        else:
            piece = slice(
                self._done, min(self._done + max(1, most_tokens // len(self.sequences)), self.width)
            )
            output = self._run(model, piece)
            self._done = piece.stop
        return None if self.left else output.logits[:, -1]

    def _run(self, model: PreTrainedModel, piece: slice) -> Any:
        inputs = (
            {"input_ids": self._ids[:, piece]}
            if self._embeds is None
            else {"inputs_embeds": self._embeds[:, piece]}
        )
        is_whole = piece.stop - piece.start == self.width
        return model(
            **inputs,
            # Without padding and in one piece, the model's own causal mask is faster than any of ours.
            attention_mask=self._mask[:, : piece.stop] if self._is_padded or not is_whole else None,
            position_ids=self._positions[..., piece],
            past_key_values=self.cache,
            use_cache=True,
            **_last_scores_only(model),
        )

    def _merge(self, model: PreTrainedModel) -> Any:
        """Put the images in their places; return the model's output where the prompt had to go in whole."""
        extras, self._extras = self._extras, {}
        prompt = len(self.sequences[0].prompt)
        merged = merge(
            model,
            self._ids[:, :prompt],
            extras,
            attention_mask=self._mask[:, :prompt],
            past_key_values=self.cache,
            use_cache=True,
            **_last_scores_only(model),
        )
        if merged.positions is not None:
            self._count_on(merged.positions, prompt)
        if merged.embeds is None:
            self._done = prompt
        else:
            embed = model.get_input_embeddings()
            self._embeds = torch.cat([merged.embeds, embed(self._ids[:, prompt:])], dim=1)
        return merged.output

    def _count_on(self, positions: torch.Tensor, prompt: int) -> None:
        """Take the positions of the prompt from the model; what comes after it counts on from the highest."""
        following = positions.max() + 1 + torch.arange(self.width - prompt, device=positions.device)
        self._positions = torch.cat([positions, following.expand(*positions.shape[:-1], -1)], dim=-1)
        self.shifts = [int(positions.max()) + 1 - prompt]


def _last_scores_only(model: PreTrainedModel) -> dict[str, int]:
    return {"logits_to_keep": 1} if "logits_to_keep" in inspect.signature(model.forward).parameters else {}
