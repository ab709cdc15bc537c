"""What a text model begins with: the embeddings of a prompt with its images in their places, and the positions."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel

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
"""What a text model may be given where its prompt can go in by pieces."""


@dataclass(slots=True)
class Merged:
    """What was found of one prompt; either `embeds` or `output` is there."""

    embeds: torch.Tensor | None = None
    """(1, tokens, hidden): the prompt goes on from here, by pieces."""
    output: Any = None
    """What the model answered: it had to run to its end, with the prompt in its cache."""
    positions: torch.Tensor | None = None
    """The last dimension is the tokens'; None where a token's position is its place in the prompt."""


class _BeginsText(Exception):
    """Ends a run where its text model would begin."""


def merge(
    model: PreTrainedModel, tokens: torch.Tensor, extras: Mapping[str, torch.Tensor], **inputs: Any
) -> Merged:
    """Run `model` over one prompt, (1, tokens), up to where its text model begins.

    So each model puts its images in their places in its own way. Some give their text model more than the
    embeddings: features for several of its layers (Qwen3-VL), or masks by which the tokens of an image see each
    other (PaliGemma). Such a prompt cannot be cut: the run goes on to its end, as `inputs` say.
    """
    merged = Merged(positions=_positions(model, tokens, extras))
    here = threading.get_ident()

    def stop(module: torch.nn.Module, arguments: tuple[Any, ...], given: dict[str, Any]) -> None:
        if threading.get_ident() != here:  # a search by beams, which goes on beside this
            return
        if merged.positions is None:
            merged.positions = given.get("position_ids")
        if not arguments and _is_plain(given):
            merged.embeds = given["inputs_embeds"]
            raise _BeginsText

    decoder: torch.nn.Module = model.get_decoder()  # type: ignore[no-untyped-call]
    hook = decoder.register_forward_pre_hook(stop, with_kwargs=True)
    try:
        # Positions that are given keep Qwen-VL from noting them in the model, where a search by beams has its own.
        merged.output = model(input_ids=tokens, position_ids=merged.positions, **inputs, **extras)
    except _BeginsText:
        pass
    finally:
        hook.remove()
    return merged


def knows_positions(model: PreTrainedModel) -> bool:
    """Return whether `merge` finds the positions of a model that counts them in several dimensions."""
    find = getattr(model.base_model, "get_rope_index", None)
    return find is not None and "mm_token_type_ids" in inspect.signature(find).parameters


def _positions(
    model: PreTrainedModel, tokens: torch.Tensor, extras: Mapping[str, torch.Tensor]
) -> torch.Tensor | None:
    """Return the positions, (dimensions, 1, tokens), of models that count them by where in an image a token is."""
    if not knows_positions(model):
        return None
    base: Any = model.base_model
    positions: torch.Tensor = base.get_rope_index(tokens, **extras)[0]
    return positions


def _is_plain(given: Mapping[str, Any]) -> bool:
    mask = given.get("attention_mask")
    has_plain_mask = mask is None or (isinstance(mask, torch.Tensor) and mask.dim() == 2)
    more = (name for name, value in given.items() if value is not None and name not in _PLAIN)
    return has_plain_mask and given.get("inputs_embeds") is not None and next(more, None) is None
