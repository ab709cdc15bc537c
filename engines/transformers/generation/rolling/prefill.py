"""Runs prompts through the model in pieces of bounded size before they join the batch; images are merged first."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import DynamicCache, PreTrainedModel

from engines.transformers.generation.token_sequence import TokenSequence


class Prefill:
    """Rows on their way into the batch. Not thread-safe; used under `torch.inference_mode`. Several rows go together,
    padded on the left; a row with extras goes alone. Rows that were in a batch before run their tokens so far
    together with the prompts."""

    def __init__(self, model: PreTrainedModel, sequences: Sequence[TokenSequence]) -> None:
        self.sequences = list(sequences)
        self.cache = DynamicCache(config=model.config)
        self.lengths = [len(one.seen) for one in sequences]
        self.width = max(self.lengths)
        self._done = 0
        seen = [torch.tensor(one.seen) for one in sequences]
        self._ids = pad_sequence(seen, batch_first=True, padding_side="left").to(model.device)
        mask = pad_sequence([torch.ones_like(one) for one in seen], batch_first=True, padding_side="left")
        self._mask = mask.to(model.device)
        self._positions = (self._mask.cumsum(1) - 1).clamp(min=0)
        self._is_padded = min(self.lengths) < self.width
        self._extras = self.sequences[0].extras
        self._embeds: torch.Tensor | None = None

    @property
    def left(self) -> int:
        """How many columns of the prompts must still go through the model."""
        return self.width - self._done

    def advance(self, model: PreTrainedModel, most_tokens: int) -> torch.Tensor | None:
        """Run the next piece; after the last, return the scores of the first new tokens, (rows, vocabulary). The
        images of a prompt are a separate first piece, which does not reduce the columns left."""
        if self._extras:
            output = self._merge(model)
        else:
            columns = max(1, most_tokens // len(self.sequences))
            piece = slice(self._done, min(self._done + columns, self.width))
            output = self._run(model, piece)
            self._done = piece.stop
        return None if self.left else output.logits[:, -1]

    def _run(self, model: PreTrainedModel, piece: slice) -> Any:
        prompts = {"input_ids": self._ids} if self._embeds is None else {"inputs_embeds": self._embeds}
        is_whole = piece.stop - piece.start == self.width
        return model(
            **{name: tensor[:, piece] for name, tensor in prompts.items()},
            # Without padding and in one piece, the model's own causal mask is faster than ours.
            attention_mask=self._mask[:, : piece.stop] if self._is_padded or not is_whole else None,
            position_ids=self._positions[..., piece],
            past_key_values=self.cache,
            use_cache=True,
            **_last_scores_only(model),
        )

    def _merge(self, model: PreTrainedModel) -> Any:
        """Merge the images into the prompt; return the model's output where the prompt had to run in whole.

        The model runs up to the start of its text model. So each model merges its images in its own way. Some pass
        more than embeddings to their text model: features for several of its layers (Qwen3-VL), or masks by which the
        tokens of an image see each other (PaliGemma). Such a prompt cannot be split: it runs to its end.
        """
        extras, self._extras = self._extras, {}
        prompt = len(self.sequences[0].prompt)
        tokens = self._ids[:, :prompt]
        base: Any = model.base_model
        positions = base.get_rope_index(tokens, **extras)[0] if knows_positions(model) else None
        here = threading.get_ident()

        def stop(module: torch.nn.Module, arguments: tuple[Any, ...], given: dict[str, Any]) -> None:
            nonlocal positions
            if threading.get_ident() != here:  # a beam search that runs beside this
                return
            if positions is None:
                positions = given.get("position_ids")
            if not arguments and _is_plain(given):
                self._embeds = given["inputs_embeds"]
                raise _BeginsText

        output: Any = None
        decoder: torch.nn.Module = model.get_decoder()  # type: ignore[no-untyped-call]
        with decoder.register_forward_pre_hook(stop, with_kwargs=True), suppress(_BeginsText):
            output = model(
                input_ids=tokens,
                attention_mask=self._mask[:, :prompt],
                # Given positions keep Qwen-VL from storing them in the model, where a beam search has its own.
                position_ids=positions,
                past_key_values=self.cache,
                use_cache=True,
                **_last_scores_only(model),
                **extras,
            )
        if positions is not None:
            self._count_on(positions, prompt)
        if self._embeds is None:
            self._done = prompt
        else:
            embed = model.get_input_embeddings()
            self._embeds = torch.cat([self._embeds, embed(self._ids[:, prompt:])], dim=1)
        return output

    def _count_on(self, positions: torch.Tensor, prompt: int) -> None:
        """Take the positions of the prompt from the model; later tokens continue from the highest."""
        following = positions.max() + 1 + torch.arange(self.width - prompt, device=positions.device)
        self._positions = torch.cat([positions, following.expand(*positions.shape[:-1], -1)], dim=-1)
        self.sequences[0].shift = int(positions.max()) + 1 - prompt


def _last_scores_only(model: PreTrainedModel) -> dict[str, int]:
    return {"logits_to_keep": 1} if "logits_to_keep" in inspect.signature(model.forward).parameters else {}


_PLAIN = frozenset(
    {
        "input_ids",
        "inputs_embeds",
        "attention_mask",
        "position_ids",
        "past_key_values",
        "use_cache",
        "cache_position",
        "return_dict",
        "output_attentions",
        "output_hidden_states",
    }
)
"""Inputs of a text model whose prompt can run in pieces."""


class _BeginsText(Exception):
    """Raised to end a run where its text model would begin."""


def knows_positions(model: PreTrainedModel) -> bool:
    """Return whether a prefill finds the positions of a model with positions of several dimensions."""
    find = getattr(model.base_model, "get_rope_index", None)
    return find is not None and "mm_token_type_ids" in inspect.signature(find).parameters


def _is_plain(given: Mapping[str, Any]) -> bool:
    mask = given.get("attention_mask")
    has_plain_mask = mask is None or (isinstance(mask, torch.Tensor) and mask.dim() == 2)
    more = (name for name, value in given.items() if value is not None and name not in _PLAIN)
    return has_plain_mask and given.get("inputs_embeds") is not None and next(more, None) is None
